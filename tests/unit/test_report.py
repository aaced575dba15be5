"""The experiment's report, from runs as the trainer writes them."""

from __future__ import annotations

import fcntl
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from capo_testbed.experiment import report, runs, tables
from capo_testbed.experiment.collect import Results, collect, load, save
from capo_testbed.experiment.compute import Shape
from capo_testbed.experiment.equal_compute import gain_at
from capo_testbed.experiment.figures import draw_all
from capo_testbed.experiment.grids import on_map
from capo_testbed.experiment.questions import (
    COMPUTE,
    CONTROLS,
    ERRORS,
    GREEDY,
    GRPO,
    MAJORITY,
    ORACLE,
    QUESTIONS,
    RATES,
    SFT,
    VOTES,
    all_settings,
    errors_name,
    vote_names,
)
from capo_testbed.experiment.reported import REPORTED, reported_settings
from capo_testbed.experiment.settings import Scale, recipe_of, run_folder
from capo_testbed.experiment.summary import anchor, bench_figures, wrong_step_reduction
from capo_trainer.recipe import Recipe
from kit_experiment import write_run

ROOT = Path(__file__).parents[2]
SHAPES = {
    "policy": Shape(6, 128, 256, 4, 4, 32, 1033),
    "judge": Shape(8, 128, 256, 4, 4, 32, 1033),
}
PNG = b"\x89PNG"


def all_runs(out: Path) -> Path:
    """Runs of every setting, with figures that are made up."""
    for number, setting in enumerate(reported_settings()):
        for seed in range(setting.seeds):
            last = 0.5 + 0.01 * seed + (0.0 if setting == GRPO else 0.002 * number)
            steps = 32 if setting.steps is None else setting.steps
            judged = setting.served is not None
            write_run(out, setting, seed, [0.5, last], min(steps, 40), judge=judged)
    return out


def page_of(names: list[str]) -> str:
    parts = [f"<!-- {name} -->\nold\n<!-- end -->\n" for name in names]
    return "before\n" + "between\n".join(parts) + "after\n"


def test_runs_are_summed_up_and_put_into_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, docs = tmp_path / "runs", tmp_path / "docs"
    write_run(runs, SFT, 0, [0.5], 0)
    for seed, last in enumerate((0.6, 0.7, 0.8)):
        write_run(runs, GRPO, seed, [0.5, last], 2, commit="abc", judge=False)
        write_run(runs, MAJORITY, seed, [0.6, last + 0.1], 2, commit="def")
    run_folder(runs, MAJORITY, 4).mkdir()  # not done, so not counted
    docs.mkdir()
    page = docs / "experiment.md"
    names = ["table: controls", "table: compute", "figure: controls", "figure: votes"]
    page.write_text(page_of([*names, "table: another-page", "expected: compute"]))

    report.main(out=runs, docs=docs)

    text, printed = page.read_text(), capsys.readouterr()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "<!-- table: another-page -->\nold\n<!-- end -->" in text and text.count("old") == 1
    assert "| grpo | 3 | 70.0 ± 24.8 |  | 10.0 ± 0.0 | 0.0 ± 0.0 | 30.0 ± 0.0 |  | 0.00 |" in text
    # Paired by seed, all differences are the same, so the interval has no width.
    line = "| capo-majority | 3 | 80.0 ± 24.8 | +10.0 [10.0, 10.0] | 10.0 ± 0.0 |"
    assert text.count(line) == 2
    assert "| sft | 1 | 50.0 |" in text and "control-random" not in text
    assert "![Is it where the penalty falls?](experiment/controls.png)" in text
    assert "<!-- figure: votes -->\n<!-- end -->" in text
    assert "`grpo-rollouts-9`: as grpo." in text
    assert (docs / "experiment" / "controls.png").read_bytes().startswith(PNG)
    assert not (docs / "experiment" / "votes.png").exists()
    found = load(docs / "experiment" / "results.json").settings["grpo"]
    assert found.seeds == [0, 1, 2] and found.steps == [8, 16] and found.commits == ["abc"] * 3
    assert found.curves["greedy_accuracy"] == [[0.5, 0.6], [0.5, 0.7], [0.5, 0.8]]
    assert found.totals["uncredited"] == [2, 2, 2] and found.totals["seconds"] == [70.0] * 3
    assert found.totals["prompt_tokens"] == [120] * 3 and "greedy_unknown" not in found.curves
    assert "capo-majority" in printed.out
    assert "warning: controls: runs of 2 commits are compared (abc, def)" in printed.err
    assert "controls: 9 of 10 settings lack runs" in printed.err


def test_a_run_that_two_processes_made_counts_once(tmp_path: Path) -> None:
    write_run(tmp_path, GRPO, 0, [0.5, 0.6], 2)
    path = run_folder(tmp_path, GRPO, 0) / "metrics.jsonl"
    text = path.read_text()
    path.write_text(text + text.replace('"step_seconds": 2.0', '"step_seconds": 9.0'))
    found = collect(tmp_path, [GRPO])["grpo"]
    assert found.totals["rollouts"] == [8] and found.totals["step_seconds"] == [4.0]
    path.write_text(text + text.replace('"tokens": 100', '"tokens": 101'))
    with pytest.raises(ValueError, match="two runs are mixed: delete this folder"):
        collect(tmp_path, [GRPO])
    path.write_text("".join(line for line in text.splitlines(True) if '"step": 1,' not in line))
    with pytest.raises(ValueError, match="lacks steps of training"):
        collect(tmp_path, [GRPO])


def test_two_processes_do_not_make_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(GRPO, 0, Scale(), tmp_path, tmp_path)
    trained: list[Path] = []

    def train(recipe: Recipe) -> None:
        trained.append(recipe.output)
        with (recipe.output / "lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    monkeypatch.setattr("capo_trainer.train.train", train)
    runs.run(recipe)
    runs.run(recipe)  # the one that waited
    assert trained == [recipe.output] and runs.is_done(recipe.output)


def test_figures_are_made_from_results_alone(tmp_path: Path) -> None:
    settings = collect(all_runs(tmp_path / "runs"), reported_settings())
    judges = [{"judge": "capo-greedy", "precision": 0.9, "recall": 0.8, "f1": 0.85}]
    folder = tmp_path / "docs" / "experiment"
    folder.mkdir(parents=True)
    save(Results(settings, SHAPES, judges), folder / "results.json")

    report.main(out=tmp_path / "no runs", docs=tmp_path / "docs", figures=True)

    for question in REPORTED:
        assert (folder / f"{question.name}.png").read_bytes().startswith(PNG), question.name
    results = load(folder / "results.json")
    assert results == Results(settings, SHAPES, judges)
    parts = report.parts_of(results, [])
    assert not [name for name, text in parts.items() if name[0] == "table" and "None" in text]
    assert not [name for name, text in parts.items() if tables.NONE in text]
    assert all(bench_figures(results).values())


def test_without_runs_nothing_is_drawn_and_tables_say_so(tmp_path: Path) -> None:
    assert draw_all(Results({}), tmp_path) == []
    parts = report.parts_of(Results({}), [])
    assert parts["table", "controls"] == parts["table", "compute-equal"] == tables.NONE
    assert "compute: 9 of 9 settings" in "\n".join(tables.missing_runs(Results({})))
    assert bench_figures(Results({}))["gain_judge"] is None


def test_few_seeds_are_pooled_over_the_question(tmp_path: Path) -> None:
    names = [name for name, _, _ in vote_names(0.6)]
    known = all_settings()
    for seed in range(3):
        write_run(tmp_path, GRPO, seed, [0.5 + 0.02 * seed], 1)
        for number, name in enumerate(names):
            noise = 0.01 * (-1) ** (number + seed)
            write_run(tmp_path, known[name], seed, [0.6 + 0.02 * seed + noise], 1)
    found = tables.gains_of(VOTES, collect(tmp_path, known.values()))
    widths = {round((each.high or 0) - (each.low or 0), 6) for each in found.values()}
    assert len(found) == len(names) and len(widths) == 1
    alone = tables.gain(collect(tmp_path, known.values()), names[0], "grpo")
    assert alone and alone.high and found[names[0]].high
    assert alone.high - alone.mean > found[names[0]].high - found[names[0]].mean


def test_each_setting_is_compared_with_outcomes_on_its_own_tasks() -> None:
    assert tables.baseline_of(CONTROLS, MAJORITY) == GRPO
    assert tables.baseline_of(CONTROLS, GRPO) is None
    longer = next(s for s in COMPUTE.settings if s.name == "grpo-steps-56")
    assert tables.baseline_of(COMPUTE, longer) == GRPO
    for question in QUESTIONS:
        for setting in question.settings:
            baseline = tables.baseline_of(question, setting)
            assert baseline is None or baseline.bed == setting.bed


def test_a_real_judge_is_placed_on_the_map(tmp_path: Path) -> None:
    write_run(tmp_path, GRPO, 0, [0.5], 1)
    known = all_settings()
    for precision in RATES:
        for recall in RATES:
            value = 0.5 + 0.1 * precision * recall
            write_run(tmp_path, known[errors_name(precision, recall)], 0, [value], 1)
    gains = tables.gains_of(ERRORS, collect(tmp_path, known.values()))
    at = on_map(gains, {"precision": 0.6, "recall": 0.9})
    assert at == pytest.approx(10 * 0.6 * 0.9)
    assert on_map(gains, {"precision": 1.0, "recall": 1.0}) == pytest.approx(10.0)
    assert on_map(gains, {"precision": 0.2, "recall": 0.9}) is None


def test_the_gain_at_equal_compute_is_over_grpos_own_curve(tmp_path: Path) -> None:
    longer = next(s for s in COMPUTE.settings if s.name == "grpo-steps-56")
    for seed in (0, 1):
        write_run(tmp_path, GRPO, seed, [0.5], 10, judge=False)
        write_run(tmp_path, longer, seed, [0.6], 20, judge=False)
        write_run(tmp_path, GREEDY, seed, [0.7 + 0.1 * seed], 10)
    results = Results(collect(tmp_path, (GRPO, longer, GREEDY)), SHAPES)
    free = gain_at(results, "capo-greedy", "steps", 1e-9)
    assert free and free.mean == pytest.approx(25.0, abs=1e-3)  # 0.75 against grpo's 0.5
    dear = gain_at(results, "capo-greedy", "steps", 2.0)
    assert dear and 15.0 < dear.mean < 25.0
    assert gain_at(results, "capo-greedy", "steps", 1000.0) is None  # beyond grpo's runs
    assert gain_at(results, "capo-greedy", "rollouts", 1.0) is None  # no such runs


def test_wrong_steps_are_compared_as_a_part_of_grpos(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, GRPO, seed, [0.5], 1, wrong=0.08)
        write_run(tmp_path, MAJORITY, seed, [0.6], 1, wrong=0.06)
    found = wrong_step_reduction(collect(tmp_path, (GRPO, MAJORITY)), "capo-majority")
    assert found and found.mean == pytest.approx(25.0)


def test_the_benchmark_states_gains_and_what_is_missing(tmp_path: Path) -> None:
    def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "bench" / "experiment.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    nothing = bench("--runs", str(tmp_path))
    assert nothing.returncode == 1 and "make experiment" in nothing.stderr
    runs = tmp_path / "runs"
    for seed in range(2):
        write_run(runs, GRPO, seed, [0.6 + 0.01 * seed], 2, judge=False)
        write_run(runs, MAJORITY, seed, [0.7 + 0.02 * seed], 2)
        write_run(runs, ORACLE, seed, [0.75 + 0.01 * seed], 2, judge=False)
    done = bench("--runs", str(runs), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "experiment.json").read_text())
    assert found["gain_oracle"] == {"mean": 15.0, "low": 15.0, "high": 15.0, "seeds": 2}
    assert found["gain_judge"]["mean"] == 10.5 and found["gain_random"] is None
    assert found["commits"] == ["abc"] and found["gain_equal_compute"] is None
    assert "missing: controls" in done.stdout and "runs --question controls" in done.stdout
    assert bench("--quick", "--runs", str(runs), "--out", str(tmp_path)).returncode == 0


def test_the_page_has_a_place_for_everything_that_is_generated() -> None:
    page = (ROOT / "docs" / "experiment.md").read_text()
    found = set(re.findall(r"<!-- (table|figure|expected): ([\w-]+) -->\n", page))
    assert set(report.parts_of(Results({}), [])) <= found, "add these parts to docs/experiment.md"
    assert all(f"\n## {question.title}\n" in page for question in REPORTED)
    assert anchor("Is it where the penalty falls?") == "is-it-where-the-penalty-falls"
    folder = ROOT / "docs" / "experiment"
    assert all((folder / name).exists() for name in re.findall(r"\(experiment/([\w.-]+)\)", page))


def test_every_setting_has_a_recipe_and_an_expectation(tmp_path: Path) -> None:
    settings = all_settings()
    assert len(settings) == len({s.name for q in QUESTIONS for s in q.settings})
    for setting in settings.values():
        recipe = recipe_of(setting, 1, Scale(), tmp_path, tmp_path, "http://127.0.0.1:1")
        served = recipe.credit.source == "service" and recipe.credit.reward != "outcome"
        assert (setting.served is not None) == served, setting.name
        assert setting.expected.endswith(".") and setting.seeds <= 5
        if recipe.credit.source != "service":
            assert recipe.credit.source_options["seed"] == 1
