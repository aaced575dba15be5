"""The experiment's summary, from runs as the trainer writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from capo_testbed.experiment import report
from capo_testbed.experiment.questions import GRPO, MAJORITY, QUESTIONS, SFT, all_settings
from capo_testbed.experiment.runs import DONE
from capo_testbed.experiment.settings import Scale, Setting, recipe_of, run_folder


def write_run(out: Path, setting: Setting, seed: int, accuracy: list[float], steps: int) -> None:
    folder = run_folder(out, setting, seed)
    folder.mkdir(parents=True)
    lines = [
        {
            "kind": "evaluation",
            "step": 8 * i,
            "greedy_accuracy": value,
            "greedy_wrong_step_rate": 0.1,
            "greedy_lucky_rate": 0.0,
            "greedy_tokens": 30.0,
        }
        for i, value in enumerate(accuracy, 1)
    ] + [
        {
            "kind": "train",
            "step": step,
            "tokens": 100,
            "rollouts": 4,
            "critiques": 8,
            "uncredited": 1,
            "judge_prompt_tokens": 300,
            "judge_cached_tokens": 200,
            "judge_completion_tokens": 50,
        }
        for step in range(steps)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / DONE).write_text('{"commit": "abc", "seconds": 1.0}')


def test_an_interval_is_students() -> None:
    # numpy and scipy would say: mean 2, sd 1, t(2, 0.975) = 4.302653.
    mean, half = report.interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(4.302653 / 3**0.5, rel=1e-4)
    assert report.interval([0.5]) == (0.5, 0.0)


def test_runs_are_summed_up_and_put_into_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, docs = tmp_path / "runs", tmp_path / "docs"
    write_run(runs, SFT, 0, [0.5], 0)
    for seed, last in enumerate((0.6, 0.7, 0.8)):
        write_run(runs, GRPO, seed, [0.5, last], 2)
        write_run(runs, MAJORITY, seed, [0.6, last + 0.1], 2)
    run_folder(runs, MAJORITY, 4).mkdir()  # not done, so not counted
    docs.mkdir()
    page = docs / "experiment.md"
    parts = [f"<!-- table: {name} -->\nold\n<!-- end -->\n" for name in ("controls", "compute")]
    page.write_text("before\n" + "between\n".join(parts) + "after\n")

    report.main(out=runs, docs=docs)

    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| grpo | 3 | 70.0 ± 24.8 | 10.0 ± 0.0 | 0.0 ± 0.0 | 30.0 ± 0.0 | 1.50 |" in text
    assert text.count("| capo-majority | 3 | 80.0 ± 24.8 |") == 2
    assert "| sft | 1 | 50.0 ± 0.0 |" in text and "control-random" not in text
    found = json.loads((docs / "experiment" / "results.json").read_text())
    assert found["grpo"]["seeds"] == 3 and found["grpo"]["steps"] == [8, 16]
    assert found["grpo"]["critiques_per_rollout"] == [2.0] * 3
    assert found["grpo"]["uncredited"] == 6
    for name in ("controls.png", "compute.png"):
        assert (docs / "experiment" / name).read_bytes().startswith(b"\x89PNG")
    assert "capo-majority" in capsys.readouterr().out


def test_every_setting_has_a_recipe_and_an_expectation(tmp_path: Path) -> None:
    settings = all_settings()
    assert len(settings) == len({s.name for q in QUESTIONS for s in q.settings})
    for setting in settings.values():
        recipe = recipe_of(setting, 1, Scale(), tmp_path, tmp_path, "http://127.0.0.1:1")
        served = recipe.credit.source == "service" and recipe.credit.reward != "outcome"
        assert (setting.served is not None) == served, setting.name
        assert setting.expected.endswith(".") and setting.seeds <= 5
