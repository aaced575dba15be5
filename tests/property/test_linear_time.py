"""Nothing that reads what others wrote takes more than linear time (bench/linear.py measures it).

Ratios of processor time in one process, never a time by itself: at eight times the length a linear
reader takes eight times as long, a quadratic one sixty-four times.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from linear import HARD, READERS, exponent

SHORT = 1 << 13
MOST = 1.6  # between 1 and 2, with room for a noisy machine


@pytest.mark.parametrize("reader", READERS)
def test_time_grows_as_length(reader: str) -> None:
    steep = {}
    for name in HARD:
        grows, _ = exponent(READERS[reader], name, SHORT, 8 * SHORT)
        if grows > MOST:  # once more, larger, before it is said to be so
            grows, _ = exponent(READERS[reader], name, 4 * SHORT, 32 * SHORT)
        steep[name] = grows
    assert {name: grows for name, grows in steep.items() if grows > MOST} == {}
