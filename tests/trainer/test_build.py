"""The testbed's builds give the same weights each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from capo_testbed.build import build
from capo_testbed.common import Round, Sizes

TINY = Sizes(
    layers=2,
    judge_layers=3,
    vocabulary=400,
    policy_updates=6,
    held_out=8,
    judge_rounds=(Round(6, 4e-3, 4.0, 60), Round(4, 2e-3, 2.0, 60)),
)


@pytest.mark.timeout(600)
def test_two_builds_are_one(tmp_path: Path) -> None:
    said: list[str] = []
    found = [build(tmp_path / name, TINY, 0, said.append) for name in ("a", "b")]
    assert found[0]["judges"] == found[1]["judges"]
    for part in ("policy", "judge"):
        one, other = (tmp_path / name / part / "model.safetensors" for name in ("a", "b"))
        assert one.read_bytes() == other.read_bytes()
    # Neither was good enough after the first round.
    assert said.count("judge: round 2 of at most 2") == 2
