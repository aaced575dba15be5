"""The controls: the judge's penalties at other places of a rollout."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo_trainer.placement import Placement, place
from capo_trainer.types import RolloutCredit

SPANS = [(0, 2), (3, 4), (6, 9), (9, 11)]  # tokens 2, 4 and 5 are in no step


def credit(*penalties: float) -> RolloutCredit:
    return RolloutCredit(tokens(*penalties), [p > 0 for p in penalties], SPANS)


def tokens(*penalties: float) -> list[float]:
    found = [0.0] * 11
    for (first, end), penalty in zip(SPANS, penalties, strict=True):
        found[first:end] = [penalty] * (end - first)
    return found


@pytest.mark.parametrize(
    ("placement", "wanted"),
    [
        ("judge", tokens(0, 1, 0, 0.5)),
        ("shifted", tokens(0.5, 0, 1, 0)),
        ("inverted", tokens(1, 0, 1, 0.5)),
        ("last", tokens(0, 0, 0, 1)),
        ("uniform", tokens(0.25, 0.25, 0.25, 0.25)),
    ],
)
def test_penalties_are_moved(placement: Placement, wanted: list[float]) -> None:
    placed = place(credit(0, 1, 0, 0.5), placement, "seed")
    assert placed.penalties == wanted
    assert placed.wrong == [False, True, False, True]  # what the judge said


def test_random_keeps_the_penalties_and_reaches_every_step() -> None:
    places = set()
    for seed in range(40):
        placed = place(credit(0, 1, 0, 0), "random", f"seed {seed}")
        assert placed == place(credit(0, 1, 0, 0), "random", f"seed {seed}")
        [at] = [i for i, (first, _) in enumerate(SPANS) if placed.penalties[first] == 1]
        assert placed.penalties == tokens(*(float(i == at) for i in range(4)))
        places.add(at)
    assert places == {0, 1, 2, 3}


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_uniform_keeps_the_total(penalties: list[float]) -> None:
    placed = place(credit(*penalties), "uniform", "seed")
    assert sum(placed.penalties) == pytest.approx(sum(credit(*penalties).penalties))


def test_a_rollout_without_steps_stays_as_it_is() -> None:
    nothing = RolloutCredit([0.0, 0.0], [])
    assert place(nothing, "last", "seed") == nothing
