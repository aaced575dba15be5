"""`capo runs`: the table of runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from capo_client.cli import runs as module

STEP = {
    "rollouts": 8,
    "tokens": 400,
    "mean_tokens": 50,
    "step_seconds": 2.0,
    "wrong_step_rate": 0.2,
}
JUDGE = {"judge_prompt_tokens": 100, "judge_cached_tokens": 90, "judge_completion_tokens": 5}


def write(folder: Path, accuracies: list[float], evaluated: bool = False, **recipe: Any) -> Path:
    folder.mkdir(parents=True)
    records: list[dict[str, Any]] = []
    for step, accuracy in enumerate(accuracies, 1):
        records.append({"kind": "train", "step": step, "accuracy": accuracy, **STEP, **JUDGE})
        if evaluated:
            figures = {"greedy_accuracy": accuracy / 2, "greedy_tokens": 40.0, "seconds": 1.0}
            records.append({"kind": "evaluation", "step": step, **figures})
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines + '{"kind": "train", "st')
    if recipe:
        (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder


def as_json(capsys: pytest.CaptureFixture[str], *folders: Path) -> dict[str, Any]:
    module.runs(list(folders), as_json=True)
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    return shown


def table(capsys: pytest.CaptureFixture[str], *folders: Path) -> list[dict[str, str]]:
    module.runs(list(folders))
    head, *rows = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_figures_of_training_are_means_of_the_last_tenth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accuracies = [0.1, 0.9, *[0.2] * 16, 0.4, 0.6]
    found = as_json(capsys, write(tmp_path / "a", accuracies, steps=30))
    [run] = found["runs"]
    assert found["measured"] == "training"
    assert (run["steps"], run["of_steps"], run["rollouts"]) == (20, 30, 160)
    assert run["training"]["accuracy"] == pytest.approx(0.5)
    assert (run["training"]["best_accuracy"], run["training"]["best_step"]) == (0.9, 2)
    assert (run["judge_tokens"], run["judge_cached_tokens"]) == (20 * 15, 20 * 90)
    assert run["seconds"] == 40.0


def test_evaluations_are_compared_only_if_every_run_has_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write(tmp_path / "one", [0.4, 0.8], evaluated=True)
    two = write(tmp_path / "two", [0.6])
    [first, second] = table(capsys, one, two)
    assert (first["accuracy"], second["accuracy"]) == ("80.0%", "60.0%")
    assert first["measured"] == "training" and first["wrong steps"] == "20.0%"
    [alone] = table(capsys, one)
    assert (alone["accuracy"], alone["best (step)"], alone["measured"]) == (
        "40.0%",
        "40.0% (2)",
        "evaluation",
    )
    assert (alone["wrong steps"], alone["tokens"], alone["seconds"]) == ("-", "40", "6")


def test_only_settings_that_differ_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def recipe(reward: str, seed: int, **more: Any) -> dict[str, Any]:
        credit = {"reward": reward, "url": f"http://127.0.0.1:{seed}", **more}
        return {"steps": 2, "seed": seed, "output": reward, "credit": credit}

    write(tmp_path / "runs" / "capo", [0.5], **recipe("capo", 1, placement="judge"))
    write(tmp_path / "runs" / "grpo", [0.5], **recipe("outcome", 1))
    write(tmp_path / "runs" / "bare", [0.5])
    bare, capo, grpo = table(capsys, tmp_path / "runs")
    assert (capo["run"], capo["differs in"]) == ("capo", "credit.reward=capo")
    assert (grpo["differs in"], grpo["steps"]) == ("credit.reward=outcome", "1/2")
    assert bare["differs in"] == "unknown: no recipe.json that can be read" and bare["steps"] == "1"
    [one] = table(capsys, tmp_path / "runs" / "capo")
    assert one["run"] == str(tmp_path / "runs" / "capo") and one["differs in"] == "nothing"


def test_a_run_that_is_named_twice_is_shown_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "a", [0.5])
    assert len(table(capsys, folder, tmp_path)) == 1


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (None, "is no folder: name the `output` of a recipe"),
        ("", "has no metrics.jsonl with a line in it: name the `output`"),
    ],
)
def test_a_folder_without_a_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: str | None, says: str
) -> None:
    folder = tmp_path / "x"
    if made is not None:
        folder.mkdir()
        (folder / "metrics.jsonl").write_text(made)
    with pytest.raises(typer.Exit) as stopped:
        module.runs([folder])
    assert stopped.value.exit_code == 2 and says in capsys.readouterr().err


def test_a_terminal_gets_the_figures_and_the_settings_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    for seed in range(2):
        write(tmp_path / f"seed-{seed}", [0.5], seed=seed, policy={"model": "m" * 90 + str(seed)})
    module.runs([tmp_path])
    shown = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert max(map(len, shown.splitlines())) <= 80 and "…" not in shown
    assert shown.index("accuracy") < shown.index("differs in") < shown.index("seed=1")
