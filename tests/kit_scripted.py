"""A scripted judge: for tests of everything around the engine."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from capo_service.engine.base import (
    FINISHED_EARLY,
    UNLIMITED,
    ChatPrompt,
    Completion,
    CritiqueSampling,
    EncodedPrompt,
    EngineDeadError,
    EngineStatus,
    JudgeLimits,
    JudgePrompt,
)

Script = Callable[[str, CritiqueSampling], str]


_END = re.compile(r"^\[end ([a-z]{2,7})\]$", re.MULTILINE)


def shown_steps(prompt: str) -> list[tuple[int, str]]:
    """The numbers and texts of the steps in a prompt, as a judge reads them."""
    ends = _END.findall(prompt)
    if not ends:
        return []
    parts = re.split(
        rf"^\[(?:Step )?(\d+|end|observation) {ends[-1]}\]$", prompt, flags=re.MULTILINE
    )
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return [(int(number), text.strip()) for number, text in pairs if number.isdigit()]


def nothing_wrong(prompt: str, sampling: CritiqueSampling) -> str:
    """The script of a judge that flags no step."""
    return '{"analysis": "fine", "incorrect_steps": []}'


def nothing_to_say(prompt: str, sampling: CritiqueSampling) -> str:
    """The thought of a judge that ends it at once."""
    return ""


@dataclass
class ScriptedEngine:
    """Answers each prompt, as text, by `script`, after `delay` seconds.

    One token is one character, so that lengths are easy to read. With a thinking budget it thinks
    what `thoughts` says, cut at the budget. `token_seconds` is the time of each token that it
    writes; a critique that is aborted has the tokens that were written by then. `kill()` makes it
    die as a real engine does: waiting critiques fail at once and so does every later one.
    """

    script: Script = nothing_wrong
    thoughts: Script = nothing_to_say
    delay: float = 0.0
    token_seconds: float = 0.0
    context_length: int | None = 1_000_000
    tokenizer_json: str | None = None
    model: str = "scripted"
    kind: str = "scripted"
    slots: int = UNLIMITED
    ready_in: float = 0.0
    restarts: int = 0
    prompts: list[str] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    running: int = 0

    def __post_init__(self) -> None:
        self._dead: asyncio.Event = asyncio.Event()
        self._aborts: dict[str, asyncio.Event] = {}
        self._started = False

    @property
    def status(self) -> EngineStatus:
        dead = self._dead.is_set()
        return EngineStatus(self._started and not dead, dead, self.ready_in, self.restarts)

    async def start(self) -> JudgeLimits:
        self._started = True
        return JudgeLimits(
            self.slots,
            self.context_length,
            self.tokenizer_json,
            thinking_markers=("<think>\n", "</think>\n\n"),
        )

    async def close(self) -> None:
        self._started = False

    def kill(self) -> None:
        self._dead.set()

    def encode(self, prompt: JudgePrompt) -> ChatPrompt:
        text = "".join(text for text, _ in (*prompt.system, ("\n", True), *prompt.user))
        return ChatPrompt([{"role": "user", "content": text}], tokens=len(text))

    async def complete(
        self, request: str, prompt: EncodedPrompt, sampling: CritiqueSampling
    ) -> Completion:
        if not self.status.ready:
            raise EngineDeadError("the scripted engine is dead")
        assert isinstance(prompt, ChatPrompt)
        [message] = prompt.messages
        self.prompts.append(message["content"])
        ended = self._aborts.setdefault(request, asyncio.Event())
        self.running += 1
        budget, began = sampling.thinking_tokens, time.monotonic()
        try:
            text = self.script(message["content"], sampling)
            thought = self.thoughts(message["content"], sampling)[:budget] if budget else ""
            seconds = self.delay + self.token_seconds * len(thought + text)
            if seconds:
                await self._pause(ended, seconds)
        except asyncio.CancelledError:
            self.cancelled.append(request)
            raise
        finally:
            self.running -= 1
            del self._aborts[request]
        tokens = prompt.tokens or 0
        if ended.is_set():
            written = thought[: self._written(time.monotonic() - began)]
            return Completion("", FINISHED_EARLY, tokens, 0, len(written), written, len(written))
        cut = text[: sampling.max_tokens]
        return Completion(
            text=cut,
            finish_reason="stop" if cut == text else "length",
            prompt_tokens=tokens,
            completion_tokens=len(thought + cut),
            thinking=thought,
            thinking_tokens=len(thought),
            thinking_truncated=0 < budget <= len(thought),
        )

    def _written(self, seconds: float) -> int:
        if not self.token_seconds:
            return 0
        return max(int((seconds - self.delay) / self.token_seconds), 0)

    async def _pause(self, ended: asyncio.Event, seconds: float) -> None:
        waits = [asyncio.create_task(event.wait()) for event in (ended, self._dead)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._dead.is_set():
            raise EngineDeadError("the scripted engine was killed")

    async def abort(self, request: str) -> None:
        self.aborted.append(request)
        if (event := self._aborts.get(request)) is not None:
            event.set()

    async def metrics(self) -> bytes:
        return b"scripted_running %d\n" % self.running
