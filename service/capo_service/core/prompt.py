"""Question and steps -> the judge's prompt (CAPO, section 3.2 and appendix).

The prompt consists of segments: trusted ones (the template's text and the steps' heads) and
untrusted ones (question, reference, rollout). Segments are tokenized separately, untrusted ones
without control tokens, so that no text of a rollout can end its segment. The part that all rollouts
of a question share comes first.

A step's head has a code that is in no untrusted text (`core.step_code`), so it cannot be forged.
The tags of users' own templates have a nonce that a rollout cannot know. It depends on the question
only, so that the rollouts of a question share a cached prefix.
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

from capo_service.core.step_code import consonants
from capo_service.core.verdicts.base import CriterionKind
from capo_service.core.windows import WHOLE, EarlierStep, Surroundings

TemplateSegment = tuple[str, bool]  # text, trusted

# Unicode noncharacters mark, in rendered text, where an untrusted text is inserted.
_SLOT = re.compile("\ufdd0(\\d+)\ufdd1")


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """The judge's prompt: a system and a user turn of trusted and untrusted segments."""

    system: tuple[TemplateSegment, ...]
    user: tuple[TemplateSegment, ...]


@dataclass(frozen=True, slots=True)
class TaggedStep:
    """One step as templates see it.

    `{{ step.head }}`, a line feed and `{{ step.text }}`, with `{{ end }}` after the last step; or
    `{{ step.open }}{{ step.text }}{{ step.close }}`, which takes three times as many tokens.
    `observation` is what a tool or an environment wrote after it; empty if nothing.
    """

    index: int
    open: str
    text: str
    close: str
    head: str
    observation: str = ""


@dataclass(frozen=True, slots=True)
class PromptCriterion:
    """A criterion as templates see it; its text is on one line."""

    label: str
    kind: CriterionKind
    text: str


def nonce(secret: bytes, question: str) -> str:
    """The nonce in the step tags of a question: seven consonants, 30 bits, never a word.

    A tag in letters takes a fifth fewer tokens than in hexadecimal.
    """
    asked = question.encode("utf-8", "surrogatepass")
    return consonants(hmac.digest(secret, asked, hashlib.sha256), 7)


class PromptTemplate:
    """A Jinja template with the blocks `system` and `user`.

    Its variables are `question`, `reference` (or None), `steps` (of `TaggedStep`), `code` (in the
    heads of steps), `end` (a line that ends the last step), `nonce` (in the tags of steps), `style`
    (verdict, brief, full), `format` (the form of the verdict: json, tag, ...) and `thinking`
    (whether the judge writes a thought before its verdict). Where the steps are a part of a long
    rollout, `earlier` has the steps before (of `EarlierStep`), `left_out` is the number of steps
    before those, and `continues` says whether steps follow; else they are empty, 0 and false.
    `criteria` has the criteria to judge (of `PromptCriterion`); empty if there are none.
    In a trajectory, `step.observation` and `before` (the observation before the first step) follow
    a line that is in `observed`; they are empty where there is none, as is the observation of each
    of the steps in `earlier`. `has_observations` says whether there are any.

    It is rendered in Jinja's sandbox, because it may come with a downloaded model: it cannot access
    attributes that begin with an underscore, nor change its variables. Its run time is not limited.

    Attributes:
        source: its text.
        shows_earlier: whether it shows the steps before a part.
        shows_criteria: whether it shows criteria.
        shows_observations: whether it shows what tools and environments wrote.

    Args:
        source: text of the template.
        name: for error messages.
        first_step: the number of the first step.

    Raises:
        ValueError: the template is not valid, lacks a block, or does not show every text.
    """

    def __init__(self, source: str, name: str = "template", first_step: int = 0) -> None:
        # The output is a prompt, not HTML; escaping would change what the judge reads.
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
        self.source = source
        self._first_step = first_step
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ValueError(f"{name} is not a valid template: {error}") from error
        missing = {"system", "user"} - self._template.blocks.keys()
        if missing:
            raise ValueError(f"{name} has no block {' and no block '.join(sorted(missing))}")
        part = Surroundings([EarlierStep(1, "e", "p")], 1, True, "b")
        try:
            trial = self.render(
                question="q",
                steps=["s"],
                observations=["o"],
                reference="r",
                nonce="b" * 7,
                style="full",
                format="json",
                around=part,
                criteria=[PromptCriterion("C0", "bonus", "c")],
            )
        except Exception as error:  # its own code may raise anything
            raise ValueError(f"{name} is not a valid template: {error}") from error
        shown = {text for text, trusted in trial.user if not trusted}
        if not {"q", "s"} <= shown:
            raise ValueError(f"{name}: its user block must show the question and every step")
        self.shows_earlier = "e" in shown
        self.shows_criteria = "c" in shown
        self.shows_observations = {"o", "b"} <= shown and self.shows_earlier == ("p" in shown)

    def render(
        self,
        *,
        question: str,
        steps: Sequence[str],
        reference: str | None,
        nonce: str,
        style: str,
        format: str,
        thinking: bool = False,
        around: Surroundings = WHOLE,
        criteria: Sequence[PromptCriterion] = (),
        code: str = "",
        observations: Sequence[str | None] = (),
    ) -> RenderedPrompt:
        """The prompt for a rollout that consists of `steps`, or for a part of one.

        `code` must not be in any of the texts (`step_code`); default: `nonce`. `observations` has
        what was observed after each step; it may be left out.
        """
        code = code or nonce
        untrusted = [question, reference or "", *(step.strip() for step in steps)]
        first_earlier = len(untrusted)
        untrusted += [step.text for step in around.earlier]
        first_criterion = len(untrusted)
        # On one line, a text cannot imitate another criterion's line.
        untrusted += [" ".join(criterion.text.split()) for criterion in criteria]
        first_observed = len(untrusted)
        observations = observations or [None] * len(steps)
        summaries = [step.observation for step in around.earlier]
        untrusted += [(text or "").strip() for text in (*observations, around.before, *summaries)]
        observed = [
            _slot(index) if untrusted[index] else ""
            for index in range(first_observed, len(untrusted))
        ]
        values: dict[str, Any] = {
            "question": _slot(0),
            "reference": None if reference is None else _slot(1),
            "steps": [
                TaggedStep(
                    n,
                    f"<step_{n} {nonce}>",
                    _slot(i + 2),
                    f"</step_{n} {nonce}>",
                    f"[{n} {code}]",
                    observed[i],
                )
                for i, n in enumerate(range(self._first_step, self._first_step + len(steps)))
            ],
            "nonce": nonce,
            "code": code,
            "end": f"[end {code}]",
            "style": style,
            "format": format,
            "thinking": thinking,
            "earlier": [
                EarlierStep(step.index, _slot(first_earlier + i), observed[len(steps) + 1 + i])
                for i, step in enumerate(around.earlier)
            ],
            "left_out": around.left_out,
            "continues": around.continues,
            "observed": f"[observation {code}]",
            "before": observed[len(steps)],
            "has_observations": any(observed),
            "criteria": [
                PromptCriterion(criterion.label, criterion.kind, _slot(first_criterion + i))
                for i, criterion in enumerate(criteria)
            ],
        }
        context = self._template.new_context(values)
        blocks = self._template.blocks
        return RenderedPrompt(
            system=_segments("".join(blocks["system"](context)), untrusted),
            user=_segments("".join(blocks["user"](context)), untrusted),
        )


def _slot(index: int) -> str:
    return f"\ufdd0{index}\ufdd1"


def _segments(rendered: str, untrusted: Sequence[str]) -> tuple[TemplateSegment, ...]:
    parts = _SLOT.split(rendered.strip())
    pairs = [
        (untrusted[int(part)], False) if position % 2 else (part, True)
        for position, part in enumerate(parts)
    ]
    return tuple(pair for pair in pairs if pair[0])
