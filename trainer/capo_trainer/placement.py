"""Controls: where in a rollout the judge's penalties fall (`credit.placement`)."""

from __future__ import annotations

import random
from typing import Literal, assert_never

from capo_trainer.types import RolloutCredit

Placement = Literal["judge", "random", "shifted", "inverted", "last", "uniform"]


def place(credit: RolloutCredit, placement: Placement, seed: str) -> RolloutCredit:
    """The judge's penalties at other places of the same rollout.

    `wrong` stays what the judge said, so that logs can be compared.

    Args:
        credit: the judge's.
        placement: `judge`: unchanged. `random`: the steps exchange their penalties at random.
            `shifted`: each step has the penalty of the step before it, and the first that of the
            last. `inverted`: a penalty p becomes 1 - p. `last`: the largest penalty of the
            rollout, on its last step alone. `uniform`: the mean penalty over the tokens of all
            steps, on each of them; the total stays the same.
        seed: of `random`.
    """
    if placement == "judge" or not credit.spans:
        return credit
    penalties = [credit.penalties[first] if end > first else 0.0 for first, end in credit.spans]
    match placement:
        case "random":
            random.Random(seed).shuffle(penalties)  # noqa: S311  # a control, not a secret
        case "shifted":
            penalties = [penalties[-1], *penalties[:-1]]
        case "inverted":
            penalties = [1 - penalty for penalty in penalties]
        case "last":
            penalties = [0.0] * (len(penalties) - 1) + [max(penalties)]
        case "uniform":
            lengths = [end - first for first, end in credit.spans]
            total = sum(p * length for p, length in zip(penalties, lengths, strict=True))
            penalties = [total / max(sum(lengths), 1)] * len(penalties)
        case _:
            assert_never(placement)
    return RolloutCredit.of_steps(penalties, credit.wrong, credit.spans, len(credit.penalties))
