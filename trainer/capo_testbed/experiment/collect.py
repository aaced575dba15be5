"""results.json: what finished runs measured and used, by setting and seed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from capo_testbed.experiment.compute import Shape
from capo_testbed.experiment.runs import DONE, is_done, records
from capo_testbed.experiment.settings import Setting, run_folder

ACCURACY = "greedy_accuracy"  # the measure that gains are in
# Sums over a run's training records.
_SUMMED = (
    "rollouts",
    "tokens",
    "prompt_tokens",
    "critiques",
    "judge_prompt_tokens",
    "judge_cached_tokens",
    "judge_completion_tokens",
    "uncredited",
    "step_seconds",
)


@dataclass(frozen=True, slots=True)
class Result:
    """Finished runs of one setting. Lists over seeds are in the order of `seeds`.

    Attributes:
        expected: what was expected of it.
        seeds: of the finished runs.
        commits: of the code, by seed.
        steps: after which the policy was evaluated.
        curves: by measure, seed and evaluation.
        totals: of training, by name and seed; `seconds` are those of the whole run.
    """

    expected: str
    seeds: list[int]
    commits: list[str]
    steps: list[int]
    curves: dict[str, list[list[float]]]
    totals: dict[str, list[float]]

    def final(self, measure: str) -> dict[int, float]:
        """At the last evaluation, by seed; empty where it was not measured."""
        curves = self.curves.get(measure, [])
        return {seed: curve[-1] for seed, curve in zip(self.seeds, curves, strict=False)}

    def of_seed(self, seed: int) -> dict[str, float]:
        """The totals of one run."""
        at = self.seeds.index(seed)
        return {name: values[at] for name, values in self.totals.items()}

    @property
    def judge_tokens_per_token(self) -> float:
        """Tokens that the judge computed for each token of the policy, cached ones left out."""
        shares = []
        for seed in self.seeds:
            total = self.of_seed(seed)
            shares.append(computed_judge_tokens(total) / max(total.get("tokens", 0.0), 1.0))
        return fmean(shares)


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that tables and figures are made from.

    Attributes:
        settings: results by the setting's name.
        shapes: `policy` and `judge`: sizes of the models.
        judges: step precision and recall of real judges, as `capo_testbed.experiment.judges` wrote
            them.
    """

    settings: dict[str, Result]
    shapes: dict[str, Shape] = field(default_factory=dict)
    judges: list[dict[str, Any]] = field(default_factory=list)


def computed_judge_tokens(total: dict[str, float]) -> float:
    """Uncached prompt tokens and completion tokens."""
    read = total.get("judge_prompt_tokens", 0.0) - total.get("judge_cached_tokens", 0.0)
    return read + total.get("judge_completion_tokens", 0.0)


def collect(out: Path, settings: Iterable[Setting]) -> dict[str, Result]:
    """What the finished runs of settings measured, in the settings' order.

    Args:
        out: folder of the runs.
        settings: those with no finished run are left out.
    """
    found: dict[str, Result] = {}
    for setting in settings:
        folders = {seed: run_folder(out, setting, seed) for seed in range(setting.seeds)}
        done = {seed: folder for seed, folder in folders.items() if is_done(folder)}
        if done:
            found[setting.name] = _result(setting, done)
    return found


def _result(setting: Setting, runs: dict[int, Path]) -> Result:
    finished = [json.loads((run / DONE).read_text()) for run in runs.values()]
    evaluated = [by_step(run, "evaluation") for run in runs.values()]
    trained = [list(by_step(run, "train").values()) for run in runs.values()]
    # A run made with other code may have been evaluated at other steps.
    steps = sorted(set.intersection(*(set(at) for at in evaluated)))
    rows = [[at[step] for step in steps] for at in evaluated]
    measures = [
        name
        for name in (rows[0][0] if steps else {})
        if name.startswith(("greedy_", "sampled_")) and not name.endswith("_unknown")
    ]
    totals = {
        name: [sum(record[name] for record in records_of_run) for records_of_run in trained]
        for name in _SUMMED
        if all(name in record for records_of_run in trained for record in records_of_run)
    }
    totals["seconds"] = [done["seconds"] for done in finished]
    return Result(
        expected=setting.expected,
        seeds=list(runs),
        commits=[str(done["commit"]) for done in finished],
        steps=steps,
        curves={
            name: [[_rounded(record[name]) for record in row] for row in rows]
            for name in measures
            if all(isinstance(record.get(name), (int, float)) for row in rows for record in row)
        },
        totals={name: [_rounded(value) for value in values] for name, values in totals.items()},
    )


def by_step(run: Path, kind: str) -> dict[int, dict[str, Any]]:
    """A run's records of one kind, one for each step.

    A step has several where two processes made the same run at once. They are the same but for
    times, since runs are deterministic.

    Raises:
        ValueError: they differ, or a step of training has none.
    """
    found: dict[int, dict[str, Any]] = {}
    for record in records(run, kind):
        first = found.setdefault(record["step"], record)
        if _untimed(first) != _untimed(record):
            raise ValueError(
                f"{run}: metrics.jsonl has different records of step {record['step']}, so that two "
                "runs are mixed: delete this folder, and make the run again"
            )
    if kind == "train" and len(found) < max(found, default=0):
        raise ValueError(
            f"{run}: metrics.jsonl lacks steps of training: delete this folder, and make the run "
            "again"
        )
    return found


def _untimed(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if not name.endswith("seconds")}


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else round(value, 5)


def shapes_of(testbed: Path) -> dict[str, Shape]:
    """The sizes of the testbed's models, from their configurations."""
    paths = {name: testbed / name / "config.json" for name in ("policy", "judge")}
    return {
        name: Shape.of_config(json.loads(path.read_text()))
        for name, path in paths.items()
        if path.exists()
    }


def save(results: Results, path: Path) -> None:
    """Write results.json: one line for each list, so that changes can be read."""
    lines = []
    for name, result in results.settings.items():
        fields = [f"  {json.dumps(k)}: {_value(v)}" for k, v in asdict(result).items()]
        lines.append(f" {json.dumps(name)}: {{\n" + ",\n".join(fields) + "\n }")
    shapes = {name: asdict(shape) for name, shape in results.shapes.items()}
    parts = {
        "settings": "{\n" + ",\n".join(lines) + "\n}",
        "shapes": json.dumps(shapes),
        "judges": _value({judge["judge"]: judge for judge in results.judges}),
    }
    body = ",\n".join(f"{json.dumps(name)}: {part}" for name, part in parts.items())
    path.write_text(f"{{{body}}}\n")


def _value(value: Any) -> str:
    if not isinstance(value, dict):
        return json.dumps(value)
    inner = ",\n".join(f"   {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
    return f"{{\n{inner}\n  }}" if inner else "{}"


def load(path: Path) -> Results:
    """Read results.json."""
    found = json.loads(path.read_text())
    return Results(
        settings={name: Result(**fields) for name, fields in found["settings"].items()},
        shapes={name: Shape(**sizes) for name, sizes in found["shapes"].items()},
        judges=list(found["judges"].values()),
    )
