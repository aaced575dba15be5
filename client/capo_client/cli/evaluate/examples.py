"""A solution whose steps are labelled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from capo_wire.labelled_steps import joined


@dataclass(frozen=True, slots=True)
class LabelledExample:
    """A solution whose steps are labelled.

    Attributes:
        question: the question that the solution answers.
        steps: its steps.
        wrong: for each step, whether it is wrong; None if unlabelled (in most data sets, the steps
            after the first error).
        observations: for each step, what a tool or an environment wrote after it, or None; empty
            for a solution that is no trajectory.
        entry: its line in the file, or its index in the array, from 1.
        contradiction: how its labels contradict each other, if they do.
    """

    question: str
    steps: tuple[str, ...]
    wrong: tuple[bool | None, ...]
    observations: tuple[str | None, ...] = ()
    entry: int = field(default=0, compare=False)
    contradiction: str | None = field(default=None, compare=False)

    @property
    def first_error(self) -> int | None:
        """The first wrong step, or None for a solution without one."""
        return self.wrong.index(True) if True in self.wrong else None

    def rollout(self) -> dict[str, Any]:
        """The rollout of the wire: the steps unchanged, separated by blank lines."""
        response, spans, observed = joined(self.steps, self.observations)
        rollout = {"question": self.question, "response": response, "steps": spans}
        return rollout | {"observations": observed} if observed else rollout
