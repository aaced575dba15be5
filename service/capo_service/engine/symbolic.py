"""A judge without a model: it checks the equations that steps state, and nothing else."""

from __future__ import annotations

import json
import re

from capo_service.core.arithmetic import false_equations
from capo_service.engine.base import UNLIMITED, Completion, EncodedPrompt, Prompt, Sampling

NAME = "symbolic"
# The tag before a step's text, as the built-in template writes it.
_STEP_OPENS = re.compile(r"<step_(\d+) [a-z]+>\s*$")
_UNWRITTEN = re.compile(r"[^ !#-\[\]-~]")  # what a critique's analysis has no place for


class SymbolicEngine:
    """Calls a step wrong if it states a false equation. Its critiques are all the same."""

    kind = NAME
    model = NAME
    context_length = None
    tokenizer_json = None
    ready_in = 0.0
    restarts = 0
    slots = UNLIMITED
    dead = False

    def __init__(self) -> None:
        self.ready = False

    async def start(self) -> None:
        self.ready = True

    async def close(self) -> None:
        self.ready = False

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        """What is false in each step, found here: this may run in any thread, `complete` not."""
        found: list[dict[str, str]] = []
        before = ""
        for text, trusted in prompt.user:
            if trusted:
                before = text
            elif (tag := _STEP_OPENS.search(before)) is not None:
                false = "; ".join(str(equation) for equation in false_equations(text))
                if false:
                    found.append({"step": tag[1], "false": _UNWRITTEN.sub("?", false)})
                before = ""
        return EncodedPrompt(found, None, prompt.opening)

    async def complete(self, request: str, prompt: EncodedPrompt, sampling: Sampling) -> Completion:
        found = [entry for entry in prompt.payload if isinstance(entry, dict)]
        said: dict[str, object] = {"incorrect_steps": [int(entry["step"]) for entry in found]}
        schema = (sampling.json_schema or {}).get("properties", {})
        if "analysis" in schema:
            analysis = ". ".join(f"Step {entry['step']}: {entry['false']}" for entry in found)
            most = int(schema["analysis"]["maxLength"])
            said = {"analysis": (analysis or "No false equation.")[:most], **said}
        text = json.dumps(said)
        if text.startswith(prompt.opening):
            text = text[len(prompt.opening) :]
        return Completion(text, "stop")

    async def abort(self, request: str) -> None:
        pass

    async def metrics(self) -> bytes:
        return b""
