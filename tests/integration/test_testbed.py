"""The testbed on the real engine: its judge served by vLLM, and a short experiment through it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from capo_client import CreditClient, Rollout
from capo_trainer.commands import testbed_folder
from capo_trainer.testbed import tasks
from capo_trainer.testbed.experiment import records, serving

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def testbed() -> Path:
    """Made if it is not there: some minutes."""
    subprocess.run([sys.executable, "-m", "capo_client", "testbed", "--quick"], check=True)
    return testbed_folder()


@pytest.fixture(scope="module")
def judge(testbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving("testbed", tmp_path_factory.mktemp("service") / "log") as url:
        yield url


def test_vllm_serves_the_judge_and_it_finds_wrong_steps(testbed: Path, judge: str) -> None:
    import random

    rng = random.Random("served")
    rollouts, truth = [], []
    for task in (tasks.make_task(rng) for _ in range(200)):
        text = tasks.demonstrate(task, rng, tasks.DEMONSTRATIONS)
        rollouts.append(Rollout(question=task.question, response=text, outcome=0.0))
        truth.append(tasks.check(task.question, tasks.split(text)))
    with CreditClient(judge) as client:
        assert "testbed" in client.info().tokenizers
        batch = client.credit(rollouts, voting={"method": "greedy"}).raise_for_errors()
    hits = called = there = 0
    for result, wrong in zip(batch.credited, truth, strict=True):
        assert len(result.steps) == len(wrong)
        hits += sum(step.wrong and w for step, w in zip(result.steps, wrong, strict=True))
        called += sum(step.wrong for step in result.steps)
        there += sum(wrong)
    f1 = 2 * hits / (called + there)
    made = json.loads((testbed / "testbed.json").read_text())
    print(
        f"step F1 through the service {f1:.3f}, on held-out rollouts {made['judges']['judge']:.3f}"
    )
    assert f1 > 0.5


def test_the_quick_experiment_teaches(testbed: Path, judge: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "capo_trainer.testbed.experiment", "--quick", "--seeds", "2"]
    subprocess.run([*command, "--out", str(tmp_path)], check=True, env={**os.environ})
    found = {}
    for setting in ("grpo", "capo-majority"):
        runs = [tmp_path / setting / f"seed-{seed}" for seed in (0, 1)]
        for run in runs:
            steps = records(run, "train")
            assert sum(r["uncredited"] for r in steps) == 0
            assert (sum(r["judge_completion_tokens"] for r in steps) > 0) == (setting != "grpo")
        last = [records(run, "evaluation")[-1] for run in runs]
        found[setting] = sum(r["greedy_wrong_step_rate"] for r in last) / len(last)
    before = json.loads((testbed / "testbed.json").read_text())["policy"]["greedy"]["wrong_steps"]
    print(f"wrong steps: before {before:.3f}, after {found}")
    # Two short runs carry no more than this.
    assert found["capo-majority"] < before
