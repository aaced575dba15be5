"""A judge simulated from the truth: its step errors are drawn at chosen rates.

`credit.source = "capo_testbed.simulated:SimulatedJudge"` uses it in place of the service, with the
options of `Rates` as `credit.source_options`, and `method` and `n` of the recipe.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal, assert_never

from transformers import PreTrainedTokenizerBase

from capo_testbed import tasks
from capo_trainer.sections import CreditSection
from capo_trainer.types import RolloutCredit, SampledRollout, StepCredit
from capo_trainer.verify import named_function
from capo_wire import VotingMethod
from capo_wire.segmentation import Span, blank_line, tile
from capo_wire.token_offsets import decode_with_offsets

Checker = Callable[[str, Sequence[str]], list[bool]]
Steps = Literal["line", "pair", "whole", "run", "misplaced"]

# The share of wrong steps in rollouts that the testbed's policy samples before it learns.
WRONG_SHARE = 0.22
_RUN = 6  # tokens of a step with steps = "run"


@dataclass(frozen=True, slots=True)
class Rates:
    """What a simulated judge gets right.

    `recall`: the probability that a critique names a wrong step. `precision`: the share of the
    named steps that are wrong, at the share of wrong steps that the policy starts with; the
    probability that a right step is named follows from both and stays fixed while the policy
    learns, as with a real judge.

    `systematic`: the same line of the same question gets the same verdict in every critique and
    rollout. Otherwise errors are independent over steps, critiques and rollouts.

    `checker`: what knows the truth, as `evaluation.checker` of a recipe.

    `steps`: what is one step. `line`: the testbed's. `pair`: two lines. `whole`: the rollout.
    `run`: six tokens. `misplaced`: from the middle of a line to the middle of the next. A step is
    wrong if it has a character of a wrong line. (`newline` and `sentence` of the service cut these
    solutions exactly as `blank_line` does.)
    """

    precision: float = 1.0
    recall: float = 1.0
    systematic: bool = False
    steps: Steps = "line"
    seed: int = 0
    checker: str = "capo_testbed.tasks:check"

    @property
    def false_alarm(self) -> float:
        """The probability that a critique names a right step."""
        odds = (1 - self.precision) / self.precision
        return min(1.0, self.recall * odds * WRONG_SHARE / (1 - WRONG_SHARE))


class SimulatedJudge:
    """A `capo_trainer.credit_source.CreditSource`."""

    def __init__(self, settings: CreditSection, tokenizer: PreTrainedTokenizerBase) -> None:
        self._rates = Rates(**settings.source_options)
        self._method, self._critiques = settings.method, settings.voting.critiques
        self._tokenizer = tokenizer
        self._check: Checker = named_function(self._rates.checker)
        self._credit = StepCredit()

    def begin(self) -> None:
        self._credit = StepCredit()

    def submit(self, position: int, rollout: SampledRollout, outcome: float | None) -> None:
        if rollout.own_text.strip():
            self._credit.credits[position] = self._judged(rollout)

    def collect(self) -> StepCredit:
        return self._credit

    def credit_all(
        self, rollouts: Sequence[SampledRollout], outcomes: Sequence[float | None]
    ) -> StepCredit:
        self.begin()
        for position, rollout in enumerate(rollouts):
            self.submit(position, rollout, outcomes[position])
        return self.collect()

    def close(self) -> None:
        """Nothing to release."""

    def _judged(self, rollout: SampledRollout) -> RolloutCredit:
        rates, question = self._rates, rollout.request.prompt.question
        text, offsets = decode_with_offsets(self._tokenizer, rollout.ids)
        spans = cut(text, offsets, rates.steps)
        penalties = []
        for number, (step, wrong) in enumerate(
            zip(spans, wrong_spans(question, text, spans, self._check), strict=True)
        ):
            key = f"{rollout.request.key} {number}"
            if rates.systematic:
                key = f"{question} {text[slice(*step)].strip()}"
            penalties.append(self._penalty(wrong, key))
        wrong_steps = [penalty > 0 for penalty in penalties]
        tokens = token_spans(text, offsets, spans)
        return RolloutCredit.of_steps(penalties, wrong_steps, tokens, len(offsets))

    def _penalty(self, wrong: bool, key: str) -> float:
        """The vote on one step."""
        rates, k = self._rates, self._critiques
        rate = rates.recall if wrong else rates.false_alarm
        rng = random.Random(f"{rates.seed} {key}")  # noqa: S311  # a simulation, not a secret
        drawn = 1 if rates.systematic else k
        count = sum(rng.random() < rate for _ in range(drawn)) * (k // drawn)
        return vote(self._method, count, k)


def vote(method: VotingMethod, count: int, k: int) -> float:
    """The result of k readable critiques of which `count` name the step, as the service votes."""
    match method:
        case "average":
            return count / k
        case "union":
            return float(count >= 1)
        case "majority":
            return float(count >= max(1.0, k / 2))
        case "intersection" | "greedy":
            return float(count == k)
    assert_never(method)


def cut(text: str, offsets: Sequence[Span], steps: Steps) -> list[Span]:
    """Spans of characters that tile the text."""
    lines = blank_line(text)
    match steps:
        case "line":
            return lines
        case "pair":
            return tile(text, (start for start, _ in lines[2::2]))
        case "whole":
            return tile(text, ())
        case "run":
            return tile(text, (start for start, _ in offsets[_RUN::_RUN]))
        case "misplaced":
            return tile(text, ((start + end) // 2 for start, end in lines))
    assert_never(steps)


def wrong_spans(
    question: str, text: str, spans: Sequence[Span], check: Checker = tasks.check
) -> list[bool]:
    """Which spans have a character of a wrong line, blanks aside."""
    lines = blank_line(text)
    truth = check(question, [text[start:end].strip() for start, end in lines])
    bad = [line for line, wrong in zip(lines, truth, strict=True) if wrong]
    return [
        any(text[max(start, first) : min(end, last)].strip() for first, last in bad)
        for start, end in spans
    ]


def token_spans(text: str, offsets: Sequence[Span], steps: Sequence[Span]) -> list[Span]:
    """The tokens of each step, as the service aligns them: a token belongs to the step that has its
    first character that is not blank; a blank one, and one without text, to the step before it."""
    starts = [start for start, _ in steps]
    counts = [0] * len(steps)
    for start, end in offsets:
        blanks = len(text[start:end]) - len(text[start:end].lstrip())
        first = start if blanks == end - start else start + blanks
        counts[max(bisect_right(starts, first) - 1, 0)] += 1
    edges = [0, *accumulate(counts)]
    return list(pairwise(edges))
