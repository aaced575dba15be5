"""Question and steps -> what the judge is asked (CAPO, section 3.2 and appendix).

The prompt is made of segments, each trusted (our words, the step tags) or not (question,
reference, rollout). Segments are encoded apart, untrusted ones with no control tokens, so that no
text of a rollout can leave its place. What all rollouts of a question share comes first.

Step tags carry a nonce that a rollout cannot know, so none can be forged; it depends on the
question alone, or the rollouts of a question would not share a cached prefix.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

Segment = tuple[str, bool]  # text, trusted

_LETTERS = "bcdfghjklmnpqrstvwxz"
# Noncharacters of Unicode: they mark, in rendered text, where an untrusted text belongs.
_SLOT = re.compile("\ufdd0(\\d+)\ufdd1")


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """What the judge is asked, as chat turns of trusted and untrusted segments."""

    system: tuple[Segment, ...]
    user: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class TaggedStep:
    """One step as templates see it: `{{ step.open }}{{ step.text }}{{ step.close }}`."""

    index: int
    open: str
    text: str
    close: str


def nonce(secret: bytes, question: str) -> str:
    """Seven consonants that tags of this question carry: 30 bits, and never a word.

    In letters a judge's tokenizer needs a fifth fewer tokens for a tag than in hexadecimal.
    """
    digest = hmac.new(secret, question.encode("utf-8", "surrogatepass"), hashlib.sha256)
    number = int.from_bytes(digest.digest())
    return "".join(_LETTERS[number // len(_LETTERS) ** i % len(_LETTERS)] for i in range(7))


class PromptTemplate:
    """A Jinja template with the blocks `system` and `user`.

    It is given `question`, `reference` (or None), `steps` (of `TaggedStep`), `nonce`, `style`
    (verdict, brief, full) and `format` (json, tag). It is rendered in Jinja's sandbox, for it may
    come with a model from somewhere: it reaches no attribute that begins with an underscore, and
    changes nothing that it is given. It can still take long.

    Raises:
        ValueError: on construction, when the template is not valid or lacks a block or a text.
    """

    def __init__(self, source: str, name: str = "template") -> None:
        # The output is a prompt, not HTML; escaping would change what the judge reads.
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
        self.source = source
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ValueError(f"{name} is not a valid template: {error}") from error
        missing = {"system", "user"} - self._template.blocks.keys()
        if missing:
            raise ValueError(f"{name} has no block {' and no block '.join(sorted(missing))}")
        try:
            trial = self.render(
                question="q", steps=["s"], reference="r", nonce="b" * 7, style="full", format="json"
            )
        except Exception as error:  # its own code may raise anything
            raise ValueError(f"{name} is not a valid template: {error}") from error
        shown = {text for text, trusted in trial.user if not trusted}
        if not {"q", "s"} <= shown:
            raise ValueError(f"{name}: its user block must show the question and every step")

    def render(
        self,
        *,
        question: str,
        steps: Sequence[str],
        reference: str | None,
        nonce: str,
        style: str,
        format: str,
    ) -> JudgePrompt:
        """The prompt for one rollout, whose steps are `steps`."""
        untrusted = [question, reference or "", *(step.strip() for step in steps)]
        values: dict[str, Any] = {
            "question": _slot(0),
            "reference": None if reference is None else _slot(1),
            "steps": [
                TaggedStep(i, f"<step_{i} {nonce}>", _slot(i + 2), f"</step_{i} {nonce}>")
                for i in range(len(steps))
            ],
            "nonce": nonce,
            "style": style,
            "format": format,
        }
        context = self._template.new_context(values)
        blocks = self._template.blocks
        return JudgePrompt(
            system=_segments("".join(blocks["system"](context)), untrusted),
            user=_segments("".join(blocks["user"](context)), untrusted),
        )


def _slot(index: int) -> str:
    return f"\ufdd0{index}\ufdd1"


def _segments(rendered: str, untrusted: Sequence[str]) -> tuple[Segment, ...]:
    parts = _SLOT.split(rendered.strip())
    pairs = [
        (untrusted[int(part)], False) if position % 2 else (part, True)
        for position, part in enumerate(parts)
    ]
    return tuple(pair for pair in pairs if pair[0])
