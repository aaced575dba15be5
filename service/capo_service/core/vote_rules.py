"""The five methods of voting (CAPO, section 3.3), and when their result is decided."""

from __future__ import annotations

from typing import Literal, assert_never

Method = Literal["greedy", "intersection", "majority", "union", "average"]


def share(method: Method, count: int, valid: int) -> float:
    """The result of a vote: 0 or 1, or count/valid for `average`.

    `majority` follows the paper: count >= valid/2, and at least one; a tie counts.

    Args:
        count: critiques in favour.
        valid: all readable critiques, at least one.
    """
    match method:
        case "average":
            return count / valid
        case "union":
            return float(count >= 1)
        case "majority":
            return float(count >= max(1.0, valid / 2))
        case "intersection" | "greedy":
            return float(count >= valid)
    assert_never(method)


def is_fixed(method: Method, count: int, valid: int, remaining: int) -> bool:
    """Whether `remaining` further critiques cannot change the result of a vote."""
    match method:
        case "average":
            return False
        case "union":
            return count >= 1
        case "majority":
            surely_one = count >= 1 and 2 * count >= valid + remaining
            # Worst case for 0: every further critique is readable and in favour.
            surely_zero = 2 * (count + remaining) < valid + remaining
            return surely_one or surely_zero
        case "intersection" | "greedy":
            # One readable critique that is not in favour decides it.
            return count < valid
    assert_never(method)
