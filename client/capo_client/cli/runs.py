"""`capo runs`: compares training runs by the files that `capo train` writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from capo_client.cli import console
from capo_client.cli.exit_codes import USAGE
from capo_client.cli.options import JsonOption

_METRICS, _RECIPE = "metrics.jsonl", "recipe.json"
_AVERAGED = 10  # the last figures of training are means over one part in so many of its steps
_HEADERS = (
    "run",
    "steps",
    "accuracy",
    "best (step)",
    "wrong steps",
    "tokens",
    "judge tokens",
    "seconds",
)
# They do not change what is learnt.
_NOT_COMPARED = (
    "output",
    "logging.",
    "checkpoints.",
    "credit.url",
    "credit.deadline",
    "credit.ready_within",
    "credit.allow_other_version",
)
_COMPUTED = ("judge_prompt_tokens", "judge_completion_tokens")

Record = dict[str, Any]


class _NoRunError(ValueError):
    """A folder that was named holds no run."""


def runs(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Runs, or folders that contain runs."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Compare training runs: what differs in their recipes, and what they reached.

    Accuracy and wrong steps are those of evaluations if every run has some; otherwise of training
    rollouts, the last ones as means over a tenth of the steps.
    """
    try:
        found = [summary(folder) for folder in dict.fromkeys(_runs_in(folders))]
    except _NoRunError as error:
        console.complain("capo runs", error)
        raise typer.Exit(USAGE) from None
    measured = "evaluation" if all("evaluation" in run for run in found) else "training"
    settings = differing([run.pop("recipe") for run in found])
    names = _short([str(run["run"]) for run in found])
    for run, differs, name in zip(found, settings, names, strict=True):
        run["name"], run["differs"] = name, differs
    if as_json:
        typer.echo(json.dumps({"measured": measured, "runs": found}))
        return
    _show(found, measured)


def _show(found: Sequence[Mapping[str, Any]], measured: str) -> None:
    """One table; on a terminal, where settings need more room than a column has, in two parts."""
    rows = [_cells(run, run.get(measured) or {}) for run in found]
    settings = [_settings(run) for run in found]
    if not sys.stdout.isatty():
        headers = (*_HEADERS, "measured", "differs in")
        console.show(headers, [(*r, measured, s) for r, s in zip(rows, settings, strict=True)])
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column, name in enumerate(_HEADERS):
        justify: Literal["left", "right"] = "right" if column else "left"
        table.add_column(
            name.replace(" ", "\n"), justify=justify, overflow="fold", no_wrap=column > 0
        )
    differs = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    differs.add_column("run", overflow="fold")
    differs.add_column("differs in", overflow="fold")
    for row, text in zip(rows, settings, strict=True):
        table.add_row(*map(Text, row))
        differs.add_row(Text(row[0]), Text(text))
    note = f"Accuracy, wrong steps and tokens per rollout: {measured}."
    parts = [table, *([Text(), differs] if len(rows) > 1 else []), Text(), Text(note, style="dim")]
    Console(highlight=False).print(*parts, sep="\n")


def _cells(run: Mapping[str, Any], figures: Mapping[str, Any]) -> tuple[str, ...]:
    best, step = _percent(figures.get("best_accuracy")), figures.get("best_step")
    return (
        run["name"],
        str(run["steps"]) if run["of_steps"] is None else f"{run['steps']}/{run['of_steps']}",
        _percent(figures.get("accuracy")),
        best if step is None else f"{best} ({step})",
        _percent(figures.get("wrong_step_rate")),
        "-" if figures.get("tokens") is None else f"{figures['tokens']:.0f}",
        f"{run['judge_tokens']:,}",
        f"{run['seconds']:,.0f}",
    )


def _settings(run: Mapping[str, Any]) -> str:
    if not run["has_recipe"]:
        return f"unknown: no {_RECIPE} that can be read"
    given = (f"{name}={_value(value)}" for name, value in run["differs"].items())
    return ", ".join(given) or "nothing"


def _runs_in(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        if not folder.is_dir():
            raise _NoRunError(f"{folder} is no folder: name the `output` of a recipe")
        inside = [path.parent for path in sorted(folder.rglob(_METRICS)) if path.stat().st_size]
        if not inside:
            raise _NoRunError(
                f"{folder} has no {_METRICS} with a line in it: name the `output` of a recipe that "
                "was trained for at least one step, or a folder above it"
            )
        yield from inside


def summary(folder: Path) -> Record:
    """What a run reached so far, and its recipe, flat; a line that a kill cut short is left out."""
    lines = (folder / _METRICS).read_text(encoding="utf-8", errors="replace").splitlines()
    records = [record for line in lines if (record := _record(line))]
    trained = [record for record in records if record["kind"] == "train"]
    evaluated = [record for record in records if record["kind"] == "evaluation"]
    recipe = _recipe(folder / _RECIPE)
    computed = sum(_number(record, name) for record in trained for name in _COMPUTED)
    cached = sum(_number(record, "judge_cached_tokens") for record in trained)
    run: Record = {
        "run": str(folder),
        "steps": max((record["step"] for record in records), default=0),
        "of_steps": recipe.get("steps"),
        "has_recipe": bool(recipe),
        "rollouts": int(sum(_number(record, "rollouts") for record in trained)),
        "sampled_tokens": int(sum(_number(record, "tokens") for record in trained)),
        "judge_tokens": int(computed - cached),
        "judge_cached_tokens": int(cached),
        "seconds": round(
            sum(_number(record, "step_seconds") for record in trained)
            + sum(_number(record, "seconds") for record in evaluated),
            1,
        ),
        "recipe": recipe,
    }
    if trained:
        count = max(len(trained) // _AVERAGED, 1)
        run["training"] = _figures(trained, count, "", "mean_tokens")
    if evaluated:
        run["evaluation"] = _figures(evaluated, 1, "greedy_", "greedy_tokens")
    return run


def _figures(records: Sequence[Record], count: int, prefix: str, tokens: str) -> Record:
    """The last figures, means of `count` records, and the best accuracy with its step."""
    accuracy = f"{prefix}accuracy"
    known = [record for record in records if record.get(accuracy) is not None]
    best = max(known, key=lambda record: float(record[accuracy]), default={})
    return {
        "accuracy": _last(records, accuracy, count),
        "best_accuracy": best.get(accuracy),
        "best_step": best.get("step"),
        "wrong_step_rate": _last(records, f"{prefix}wrong_step_rate", count),
        "tokens": _last(records, tokens, count),
    }


def _last(records: Sequence[Record], name: str, count: int) -> float | None:
    known = [float(record[name]) for record in records[-count:] if record.get(name) is not None]
    return fmean(known) if known else None


def differing(recipes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each recipe, its values of the settings that are not the same in all that have them.

    A recipe of an older version lacks newer settings.
    """
    values: dict[str, set[str]] = {}
    for recipe in recipes:
        for name, value in recipe.items():
            values.setdefault(name, set()).add(json.dumps(value))
    differ = [
        name
        for name, found in values.items()
        if len(found) > 1 and not name.startswith(_NOT_COMPARED)
    ]
    return [{name: recipe[name] for name in differ if name in recipe} for recipe in recipes]


def _recipe(path: Path) -> Record:
    """Dotted names and values; empty if there is no recipe that can be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(_flat(values)) if isinstance(values, dict) else {}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _record(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    complete = isinstance(record, dict) and "kind" in record and "step" in record
    return record if complete else None


def _number(record: Record, name: str) -> float:
    return float(record.get(name) or 0)


def _short(paths: Sequence[str]) -> list[str]:
    """Paths without the folders that all of them are in."""
    parts = [Path(path).parts for path in paths]
    same = 0
    while len(parts) > 1 and all(len(each) > same + 1 for each in parts):
        if len({each[same] for each in parts}) > 1:
            break
        same += 1
    return [
        str(Path(*each[same:])) if len(parts) > 1 else path
        for each, path in zip(parts, paths, strict=True)
    ]


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
