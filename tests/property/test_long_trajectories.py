"""Long trajectories are prepared in linear time and memory (bench/long_trajectories.py measures it).

Ratios in one process, never a time by itself; see tests/property/test_linear_time.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from long_trajectories import HARD, hard_exponent, measure

MOST = 1.6  # between 1 and 2, with room for a noisy machine
MOST_MEMORY = 1.2

pytestmark = pytest.mark.slow


def test_time_and_memory_grow_as_the_number_of_turns() -> None:
    lines = measure((25, 200), rounds=2)
    if max(line["exponent"] for line in lines) > MOST:  # once more, before it is said to be so
        lines = measure((50, 400), rounds=3)
    for line in lines:
        assert line["exponent"] < MOST, line
        assert line["memory_exponent"] < MOST_MEMORY, line
        # The text, its steps, and the prompt: no more than a fixed number of copies.
        assert line["peak_bytes"][-1] < 30 * line["body_bytes"][-1], line
    [windows] = [line["windows"] for line in lines if line["form"].endswith("windows")]
    assert windows[-1] > windows[0]


@pytest.mark.parametrize("name", HARD)
def test_time_grows_as_what_is_hard(name: str) -> None:
    grows, _ = hard_exponent(name, 4_096, 32_768)
    if grows > MOST:
        grows, _ = hard_exponent(name, 16_384, 131_072)
    assert grows < MOST
