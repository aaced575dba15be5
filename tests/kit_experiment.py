"""Runs of the experiment as the trainer writes them, with figures that are made up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from capo_testbed.experiment.runs import DONE
from capo_testbed.experiment.settings import Setting, run_folder

TOKENS, PROMPT, ROLLOUTS = 100, 60, 4  # of a training step


def write_run(
    out: Path,
    setting: Setting,
    seed: int,
    accuracy: Sequence[float],
    steps: int,
    *,
    commit: str = "abc",
    wrong: float = 0.1,
    judge: bool = True,
) -> None:
    """A finished run: evaluations every 8 steps, and `steps` steps of training."""
    folder = run_folder(out, setting, seed)
    folder.mkdir(parents=True)
    lines = [
        {
            "kind": "evaluation",
            "step": 8 * i,
            "greedy_accuracy": value,
            "greedy_wrong_step_rate": wrong,
            "greedy_lucky_rate": 0.0,
            "greedy_tokens": 30.0,
            "greedy_unknown": 0.0,
            "seconds": 1.0,
        }
        for i, value in enumerate(accuracy, 1)
    ] + [
        {
            "kind": "train",
            "step": step,
            "tokens": TOKENS,
            "prompt_tokens": PROMPT,
            "rollouts": ROLLOUTS,
            "critiques": 8 * judge,
            "uncredited": 1,
            "judge_prompt_tokens": 300 * judge,
            "judge_cached_tokens": 200 * judge,
            "judge_completion_tokens": 50 * judge,
            "step_seconds": 2.0,
        }
        for step in range(1, steps + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / DONE).write_text(json.dumps({"commit": commit, "seconds": 70.0}))
