"""The share of easy lines and of flags in a run's rollouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from capo_testbed.experiment.padding import Padding, padding

PLAIN = "37 + 25 = 62\n\nThe answer is \\boxed{62}."
PADDED = "37 + 25 = 62\n\nSo it is 62.\n\n62 + 0 = 62\n\nThe answer is \\boxed{62}."


def write(folder: Path, *records: tuple[int, str, dict[str, Any] | None]) -> None:
    lines = [
        json.dumps({"step": step, "response": response, "credit": credit})
        for step, response, credit in records
    ]
    (folder / "rollouts.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_lines_and_flags_are_counted_by_step(tmp_path: Path) -> None:
    plain, flagged = {"suspicion": []}, {"suspicion": [{"reason": "padding"}]}
    write(tmp_path, (1, PLAIN, plain), (1, PADDED, flagged), (2, PADDED, plain), (2, PADDED, plain))
    assert padding(tmp_path) == {1: Padding(2 / 6, 3.0, 0.5), 2: Padding(0.5, 4.0, 0.0)}


def test_rollouts_without_credit_have_no_share_of_flags(tmp_path: Path) -> None:
    write(tmp_path, (1, PADDED, None), (2, PADDED, None), (2, PADDED, {"suspicion": []}))
    found = padding(tmp_path)
    assert found[1] == Padding(0.5, 4.0, None) and found[2].flagged == 0


def test_blank_rollouts_have_no_lines(tmp_path: Path) -> None:
    write(tmp_path, (1, "", None))
    assert padding(tmp_path) == {1: Padding(0.0, 0.0, None)}
