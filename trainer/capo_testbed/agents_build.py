"""Builds the policy and the judge of the small environment for agents, and its prompt files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from capo_testbed.agents import Task
from capo_testbed.agents_judge import train_judge
from capo_testbed.agents_models import AgentSizes, held_out_tasks, make_tasks, train_policy
from capo_testbed.common import Report, repeatable, stream

SUMMARY = "agents.json"


@repeatable()
def build(folder: Path, sizes: AgentSizes, seed: int, report: Report) -> dict[str, Any]:
    """Build policy, judge and prompt files in `folder`; what exists of the same sizes is kept.

    Returns:
        The content of agents.json: sizes, and what was measured of the policy and the judge.
    """
    summary = folder / SUMMARY
    known = json.loads(summary.read_text()) if summary.exists() else {}
    if known.get("of_policy") != [seed, *sizes.of_policy()]:
        known = {"of_policy": [seed, *sizes.of_policy()]}
    wanted = json.loads(json.dumps(asdict(sizes)))["judge_rounds"]
    trained = known.get("judge_rounds", [])
    if trained != wanted[: len(trained)]:  # a judge by other rounds
        known |= {"judge_rounds": [], "judge_f1": []}
    folder.mkdir(parents=True, exist_ok=True)
    held_out = held_out_tasks(sizes.held_out)
    if "policy" not in known:
        _write_prompts(folder / "eval.jsonl", held_out)
        seen = {task.question for task in held_out}
        train = make_tasks(stream(f"{seed} agents prompts"), 4000)
        _write_prompts(folder / "train.jsonl", [t for t in train if t.question not in seen])
        started = time.monotonic()
        known |= {"policy": train_policy(folder, held_out, sizes, seed, report)}
        known["policy_seconds"] = round(time.monotonic() - started)
        _write(summary, known)
    for number in range(len(known.setdefault("judge_rounds", [])), len(wanted)):
        started = time.monotonic()
        report(f"judge: round {number + 1} of {len(wanted)}")
        score = train_judge(folder, held_out, sizes, number, seed, report)
        known["judge_rounds"].append(wanted[number])
        known.setdefault("judge_f1", []).append(score)
        known.setdefault("judge_seconds", []).append(round(time.monotonic() - started))
        _write(summary, known)
    return known


def _write(path: Path, content: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(part, path)


def _write_prompts(path: Path, tasks: Sequence[Task]) -> None:
    lines = [json.dumps({"question": task.question, "answer": task.answer}) for task in tasks]
    path.write_text("\n".join(lines) + "\n")
