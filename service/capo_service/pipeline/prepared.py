"""A rollout that is ready for critiques."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import capo_wire as wire
from capo_service.core.criteria import CriterionCount
from capo_service.core.observations import ShownStep
from capo_service.core.steps import Span
from capo_service.core.suspicion import SuspicionFinding
from capo_service.core.turns import Trajectory
from capo_service.core.verdicts.base import Style, Verdict
from capo_service.core.voting import VoteCount
from capo_service.core.windows import WHOLE, Surroundings
from capo_service.pipeline.judge_prompt import JudgeTask


@dataclass(frozen=True, slots=True)
class Prepared:
    """A rollout that is ready for critiques, or a window of one.

    Attributes:
        response: the rollout's text.
        spans: the character span of each step.
        token_spans: the token span of each step; None if no tokens were sent.
        style: length of a critique's analysis.
        trajectory: what others wrote between the policy's turns; None if there is nothing.
        task: the judge's task; None for a critic that needs no prompt, and for several windows.
        suspicion: reward-hacking flags, each with its action.
        false_equations: by step, the false equation in it.
        symbolic_votes: votes against each of these steps.
        parts: the windows in which it is judged; empty if it is judged as a whole.
        first_step: of a window, the number of its first step in the rollout.
        around: what the prompt of a window says about the other steps.
        criteria: the rollout's criteria.
        asked: the positions of those that are judged.
    """

    response: str
    spans: list[Span]
    token_spans: list[Span] | None
    style: Style = "brief"
    trajectory: Trajectory | None = None
    task: JudgeTask | None = None
    suspicion: Sequence[SuspicionFinding] = ()
    false_equations: Mapping[int, str] = field(default_factory=dict)
    symbolic_votes: int = 0
    parts: Sequence[Prepared] = ()
    first_step: int = 0
    around: Surroundings = WHOLE
    criteria: Sequence[wire.Criterion] = ()
    asked: Sequence[int] = ()

    @property
    def windows(self) -> Sequence[Prepared]:
        """The windows in which it is judged; itself, if it is judged as a whole."""
        return self.parts or (self,)

    @property
    def thinks(self) -> bool:
        """Whether the judge has a thinking budget."""
        task = self.windows[0].task
        return task is not None and task.sampling.thinking_tokens > 0

    @property
    def texts(self) -> list[str]:
        """The texts of the steps."""
        return [self.response[start:end] for start, end in self.spans]

    @property
    def shown_steps(self) -> list[ShownStep]:
        """The steps as the judge sees them."""
        observed = self.trajectory.shown if self.trajectory else {}
        return [
            ShownStep(text, observed.get(step))
            for step, text in enumerate(self.texts, self.first_step)
        ]

    @property
    def policy_texts(self) -> Sequence[str]:
        """What the policy wrote, turn by turn."""
        return self.trajectory.turns if self.trajectory else (self.response,)

    def window(self, first: int, end: int, task: JudgeTask, around: Surroundings) -> Prepared:
        """Some of the steps, as a rollout of their own."""
        return replace(
            self,
            spans=self.spans[first:end],
            token_spans=None,
            task=task,
            false_equations={
                step - first: equation
                for step, equation in self.false_equations.items()
                if first <= step < end
            },
            first_step=first,
            around=around,
        )

    def count_votes(self, verdicts: Sequence[Verdict]) -> VoteCount:
        """The votes of these critiques and, if enabled, of the arithmetic checker."""
        n_steps = len(self.spans)
        wrong = [verdict.wrong for verdict in verdicts]
        if self.symbolic_votes:
            votes = VoteCount.of(wrong, n_steps, self.false_equations, self.symbolic_votes)
        else:
            votes = VoteCount.of(wrong, n_steps)
        return replace(votes, criteria=self._count_criteria(verdicts))

    def _count_criteria(self, verdicts: Sequence[Verdict]) -> list[CriterionCount]:
        readable = [verdict.criteria for verdict in verdicts if verdict.wrong is not None]
        counts = []
        for number, position in enumerate(self.asked):
            by_step = self.criteria[position].kind != "requirement"
            given = [criteria[number] for criteria in readable]
            counts.append(CriterionCount.of(given, len(self.spans) if by_step else 0))
        return counts
