"""How much of a run's rollouts is easy lines, and how many of them the service flagged."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capo_testbed import padded_tasks, tasks


@dataclass(frozen=True, slots=True)
class Padding:
    """Of the rollouts of one step that are in rollouts.jsonl.

    `easy_lines`: the share of lines that change nothing. `lines`: mean number of lines. `flagged`:
    the share of rollouts with a reward-hacking flag; None if no service credited them.
    """

    easy_lines: float
    lines: float
    flagged: float | None


def padding(folder: Path) -> dict[int, Padding]:
    """By step of a run's folder."""
    by_step: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for line in (folder / "rollouts.jsonl").read_text().splitlines():
        record = json.loads(line)
        by_step[record["step"]].append(record)
    return {step: _padding(records) for step, records in by_step.items()}


def _padding(records: list[dict[str, Any]]) -> Padding:
    lines = [line for record in records for line in tasks.split(record["response"])]
    credited = [record["credit"] for record in records if record["credit"]]
    flagged = sum(bool(credit["suspicion"]) for credit in credited)
    return Padding(
        sum(map(padded_tasks.is_easy, lines)) / max(len(lines), 1),
        len(lines) / len(records),
        flagged / len(credited) if credited else None,
    )
