"""Criteria: what a rollout is judged by in addition to the correctness of its steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from capo_wire.base import CriterionKind, RequestModel, ResponseModel


def _check_text(text: str) -> str:
    if not text.split():
        raise ValueError("is blank: write a sentence that is true if the criterion holds")
    return text


class Criterion(RequestModel):
    """A criterion of a rollout."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Field(
        description="Names the criterion in the result; unique within the rollout."
    )
    text: Annotated[str, AfterValidator(_check_text)] = Field(
        description="A sentence that is true of the response if the criterion holds: for a pitfall "
        "the mistake itself. The judge sees it as data, on one line."
    )
    kind: CriterionKind = Field(
        default="requirement",
        description="pitfall: a mistake, which lowers the reward of the step that makes it; bonus: "
        "raises the reward of the step that earns it; requirement: raises that of the whole "
        "response.",
    )
    weight: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = Field(
        default=1.0, description="Relative to the weights of the rollout's other criteria."
    )


def check_ids(criteria: Iterable[Criterion]) -> None:
    """Refuse two criteria with one id.

    Raises:
        ValueError: there are two.
    """
    seen: set[str] = set()
    for criterion in criteria:
        if criterion.id in seen:
            raise ValueError(f"two criteria have the id {criterion.id!r}: ids must be unique")
        seen.add(criterion.id)


class CriterionVotes(ResponseModel):
    """The votes on a criterion."""

    holds: int = Field(description="Critiques that say that it holds.")
    valid: int = Field(description="All parsed critiques.")
    asked: int = Field(
        description="Critiques that were requested; 0 if the criterion was left out "
        "(`voting.criteria_dropout`)."
    )


class CriterionCredit(ResponseModel):
    """The vote on a criterion, and what it changes in the rewards."""

    id: str
    kind: CriterionKind
    weight: float
    label: str | None = Field(
        description="Its name in the judge's prompt and critiques, such as `C0`; null if it was "
        "left out."
    )
    holds: bool = Field(description="Whether the vote says that it holds: `share` is at least 0.5.")
    share: float = Field(
        description="1 or 0; for voting method `average` the share of critiques that say that it "
        "holds."
    )
    step: int | None = Field(
        description="The step at which it holds: the one that most of these critiques name. Null "
        "for the response as a whole, and if `share` is 0."
    )
    votes: CriterionVotes
    reward: float = Field(
        description="What it adds to the reward of its step, or of every step if `step` is null; 0 "
        "for schemes other than `criteria`."
    )


class CriterionAnswer(ResponseModel):
    """What one critique says of a criterion."""

    id: str
    holds: bool
    step: int | None = Field(description="Null for the response as a whole, and if it fails.")
