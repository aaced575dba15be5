"""What a verdict is, and what each form of verdicts provides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

# How an engine can constrain a critique, from the most to the least exact. `structural_tag`:
# xgrammar's, which bounds free text in tokens; `grammar`: GBNF; `json_schema`; `none`: not at all.
ConstraintForm = Literal["structural_tag", "grammar", "json_schema", "none"]
Style = Literal["verdict", "brief", "full"]
CriterionKind = Literal["pitfall", "requirement", "bonus"]


@dataclass(frozen=True, slots=True)
class CriterionVerdict:
    """Whether a criterion holds, and at which step; `step` None is the response as a whole."""

    holds: bool
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A critique's parsed verdict.

    Attributes:
        wrong: the steps that it calls wrong; None if it cannot be parsed.
        reason: why it cannot be parsed.
        criteria: its verdict on each criterion that it was asked about, in their order.
    """

    wrong: frozenset[int] | None
    reason: str | None = None
    criteria: tuple[CriterionVerdict, ...] = field(default=())


class VerdictShape(Protocol):
    """The form of the verdict on one rollout: what the judge may write, and how it is read.

    A shape describes the text after a thought. `structure`, `grammar` and `json_schema` describe
    the same texts for engines that can constrain the judge in that way; a shape that returns None
    has no such form. All three leave the end token to the engine, `max_tokens` includes it. Shapes
    are hashable, and equal ones are the same.
    """

    def __hash__(self) -> int: ...

    @property
    def n_steps(self) -> int:
        """The steps are 0 to `n_steps` - 1."""

    @property
    def name(self) -> str:
        """The variable `format` of prompt templates."""

    @property
    def opening(self) -> str:
        """The fixed start of every text; empty if there is none, or it is in the prompt."""

    @property
    def is_constrained(self) -> bool:
        """Whether the text has a form that an engine can enforce."""

    def opened(self) -> VerdictShape:
        """The shape of what follows `opening`, for a prompt that ends with it."""

    def structure(self) -> list[dict[str, Any]]:
        """The elements of a sequence in an xgrammar structural tag."""

    def grammar(self) -> str | None:
        """The shape in GBNF."""

    def json_schema(self) -> dict[str, Any] | None:
        """The shape as a JSON schema; it may allow more texts than the other forms."""

    def max_tokens(self, form: ConstraintForm) -> int:
        """Tokens that suffice for every text of this shape, the end token included."""

    def expected_tokens(self) -> int:
        """A rough estimate of the tokens that judges take, for scheduling."""

    def read(self, text: str, *, truncated: bool = False, rollout: str = "") -> Verdict:
        """Parse a critique, with the opening and without the thought.

        Args:
            text: the critique.
            truncated: the text was cut off by the token limit.
            rollout: the judged text; a verdict that repeats it is a quotation.
        """
