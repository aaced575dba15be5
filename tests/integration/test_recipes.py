"""The GSM8K recipe, a few steps, through the real service."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from capo_testbed.experiment.runs import records
from kit_engine import Running

RECIPE = Path(__file__).parents[2] / "recipes" / "gsm8k_smollm2_cpu.toml"


@pytest.mark.timeout(900)
def test_the_gsm8k_recipe_trains_smollm2(vllm_service: Running, tmp_path: Path) -> None:
    settings = [f"output={tmp_path}", "steps=2", f"credit.url={vllm_service.url}"]
    settings += ["sampling.max_tokens=64", "evaluation.every=2", "credit.max_tokens=48"]
    command = [sys.executable, "-m", "capo_client", "train", "--config", str(RECIPE)]
    for setting in settings:
        command += ["--set", setting]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    steps = records(tmp_path, "train")
    assert [step["step"] for step in steps] == [1, 2]
    assert all(step["rollouts"] == 8 and math.isfinite(step["loss"]) for step in steps)
    assert all(step["critiques"] + step["uncredited"] > 0 for step in steps)
    assert records(tmp_path, "evaluation")[-1]["step"] == 2
    assert (tmp_path / "checkpoints").exists()
