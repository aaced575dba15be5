"""The testbed on the real engine: its judge served by vLLM, and a short experiment through it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest
from transformers import AutoTokenizer, LlamaForCausalLM

from capo_client import CreditClient, Rollout
from capo_testbed import common, tasks
from capo_testbed.experiment.runs import records
from capo_testbed.experiment.settings import QUICK
from capo_testbed.judge import judge_prompts
from capo_testbed.serving import serving
from capo_trainer import paths

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def testbed() -> Path:
    """Made if it is not there: some minutes."""
    subprocess.run([sys.executable, "-m", "capo_client", "testbed", "--quick"], check=True)
    return paths.testbed_folder()


@pytest.fixture(scope="module")
def judge(testbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving("testbed", tmp_path_factory.mktemp("service") / "log") as url:
        yield url


def test_the_service_has_from_vllm_what_transformers_would_write(testbed: Path, judge: str) -> None:
    rng = common.stream("served")
    solved = [
        common.Solution(task, tasks.demonstrate(task, rng, tasks.DEMONSTRATIONS))
        for task in common.make_tasks(rng, 100)
    ]
    model = LlamaForCausalLM.from_pretrained(testbed / "judge")
    tokenizer = AutoTokenizer.from_pretrained(testbed / "judge", padding_side="left")
    # Every other prompt of judge_prompts has a reference.
    prompts = [p["prompt_token_ids"] for p in judge_prompts(solved, testbed / "judge")]
    wanted = common.sample(model, tokenizer, prompts, temperature=0, max_new_tokens=40)

    rollouts = [
        Rollout(
            question=s.task.question, response=s.response, outcome=0.0,
            reference=f"\\boxed{{{s.task.answer}}}" if i % 2 else None,
        )
        for i, s in enumerate(solved)
    ]  # fmt: skip
    with CreditClient(judge) as client:
        assert client.info().tokenizers == ["testbed"]
        batch = client.credit(rollouts, voting={"method": "greedy"}, include=["critiques"])
    found = [(result.critiques or [])[0].text for result in batch.raise_for_errors().credited]
    # Rounding differs between the two, and a free judge need not follow the grammar.
    same = sum(one == other for one, other in zip(found, wanted, strict=True))
    right = sum(text == s.verdict() for text, s in zip(found, solved, strict=True))
    print(f"{same} of 100 verdicts are those of transformers, {right} are right")
    assert same >= 90


def test_the_quick_experiment_teaches(testbed: Path, judge: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "capo_testbed.experiment.runs", "--quick", "--seeds", "2"]
    subprocess.run([*command, "--out", str(tmp_path)], check=True, env={**os.environ})
    for setting in ("grpo", "capo-majority"):
        for run in (tmp_path / setting / f"seed-{seed}" for seed in (0, 1)):
            steps = records(run, "train")
            assert len(steps) == QUICK.steps
            assert sum(r["uncredited"] for r in steps) == 0
            assert (sum(r["judge_completion_tokens"] for r in steps) > 0) == (setting != "grpo")
    last = {
        name: [records(tmp_path / name / f"seed-{seed}", "evaluation")[-1] for seed in seeds]
        for name, seeds in (("sft", (0,)), ("grpo", (0, 1)), ("capo-majority", (0, 1)))
    }
    rates = {n: fmean(r["greedy_wrong_step_rate"] for r in found) for n, found in last.items()}
    print(f"wrong steps: {rates}")
    # Two short runs carry no comparison of methods.
    assert rates["capo-majority"] < rates["sft"]
