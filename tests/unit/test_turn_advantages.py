"""With random rewards, no turn has an expected advantage: not a late, a long or a lonely one."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from capo_client.adapters.advantages import token_advantages  # noqa: E402

# The turns' lengths of the rollouts of one question; after each turn stand two tokens of a tool.
GROUP = [[1, 6, 2], [9], [2, 2, 2, 2], [12, 1]]
WRONG = 0.15  # the probability that a turn is wrong, which makes the rewards skewed


def laid_out(rewards: list[list[float]]) -> tuple[Any, Any]:
    """Rewards and mask of shape (B, T)."""
    rows, masks = [], []
    for lengths, given in zip(GROUP, rewards, strict=True):
        row: list[float] = []
        mask: list[int] = []
        for length, reward in zip(lengths, given, strict=True):
            row += [reward] * length + [7.0, 7.0]
            mask += [1] * length + [0, 0]
        rows.append(row)
        masks.append(mask)
    size = max(map(len, rows))
    padded = [row + [0.0] * (size - len(row)) for row in rows]
    return torch.tensor(padded), torch.tensor([m + [0] * (size - len(m)) for m in masks])


def expected(scale: str, level: str) -> list[list[float]]:
    """The exact expected advantage of each turn, over all ways in which turns may be wrong."""
    count = sum(map(len, GROUP))
    totals = [[0.0] * len(lengths) for lengths in GROUP]
    for wrong in product((False, True), repeat=count):
        probability = 1.0
        for each in wrong:
            probability *= WRONG if each else 1 - WRONG
        left = iter(wrong)
        rewards = [[1.0 if next(left) else 2.0 for _ in lengths] for lengths in GROUP]
        values, mask = laid_out(rewards)
        found = token_advantages(values, mask, ["q"] * len(GROUP), scale, level)  # type: ignore[arg-type]
        for row, lengths in enumerate(GROUP):
            at = 0
            for turn, length in enumerate(lengths):
                assert (found[row, at + length : at + length + 2] == 0).all()  # the tool's tokens
                totals[row][turn] += probability * float(found[row, at])
                at += length + 2
    return totals


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_at_the_level_of_turns_no_turn_is_expected_to_gain(scale: str) -> None:
    for turns in expected(scale, "turn"):
        assert turns == pytest.approx([0.0] * len(turns), abs=1e-6)


def test_at_the_level_of_tokens_long_turns_are_favoured_by_the_divisor_only() -> None:
    """What the module's documentation says of `token`, with the figures of this group."""
    for turns in expected("none", "token"):
        assert turns == pytest.approx([0.0] * len(turns), abs=1e-6)
    biased = expected("group", "token")
    assert max(abs(each) for turns in biased for each in turns) > 0.03


def test_turns_of_one_length_are_as_tokens() -> None:
    rewards = torch.tensor([[2.0, 2.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[1, 1, 0, 1, 1], [1, 1, 0, 0, 0]])
    by_token = token_advantages(rewards, mask, ["q", "q"])
    assert torch.equal(by_token, token_advantages(rewards, mask, ["q", "q"], level="turn"))


def test_a_long_turn_counts_once() -> None:
    rewards = torch.tensor([[2.0] * 9 + [0.0] + [1.0]])
    mask = torch.tensor([[1] * 9 + [0, 1]])
    found = token_advantages(rewards, mask, ["q"], "none", "turn")
    assert found.tolist() == [[0.5] * 9 + [0.0, -0.5]]
    assert token_advantages(rewards, mask, ["q"], "none")[0, 0] == pytest.approx(0.1)
