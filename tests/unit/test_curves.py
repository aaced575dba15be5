"""Learning curves in the terminal, and in a pipe."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from capo_trainer.curves import Curves, sparkline
from capo_trainer.logs import Logs
from capo_trainer.recipe import Recipe, make_recipe
from capo_trainer.types import StepSamples


def record(step: int, **changes: Any) -> dict[str, Any]:
    figures = {"accuracy": step / 20, "wrong_step_rate": 0.2, "mean_tokens": 60.4, "entropy": 1.0}
    return {"kind": "train", "step": step, **figures, **changes}


def shown(curves: Curves, width: int = 100, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    Console(file=file, width=width, force_terminal=False).print(curves)
    raw: Any = file.buffer
    return [line.rstrip() for line in raw.getvalue().decode(encoding).splitlines()]


@pytest.mark.parametrize(
    ("values", "width", "drawn"),
    [
        ([0.0, 0.5, 1.0], 40, "▁▅█"),
        ([3.0], 40, "▄"),
        ([2.0, 2.0], 40, "▄▄"),
        ([0.0, 0.0, 4.0, 4.0, 8.0, 8.0], 3, "▁▅█"),
        ([float(i) for i in range(100)], 8, "▁▂▃▄▅▆▇█"),
    ],
)
def test_a_sparkline_goes_from_the_lowest_to_the_highest(
    values: list[float], width: int, drawn: str
) -> None:
    assert sparkline(values, width) == drawn


def test_first_and_last_are_means_of_a_tenth_of_the_steps() -> None:
    curves = Curves()
    for step in range(1, 21):
        curves.add(record(step))
    head, right, *_ = shown(curves)
    assert head.split() == [
        "steps",
        "1",
        "to",
        "20",
        "first",
        "2",
        "last",
        "2",
        "lowest",
        "highest",
    ]
    assert right.split()[0] == "right" and right.split()[2:] == ["7.5%", "97.5%", "5.0%", "100.0%"]
    assert all(len(line) <= 100 for line in shown(curves))


def test_what_a_run_does_not_have_is_not_shown() -> None:
    curves = Curves()
    assert shown(curves) == [] and not curves
    curves.add(record(1, wrong_step_rate=None))
    curves.add({"kind": "evaluation", "step": 1, "greedy_accuracy": 0.5})
    labels = [line.split("  ")[0] for line in shown(curves)]
    assert labels == ["step 1", "right", "tokens", "entropy", "held out: pass@1"]


@pytest.mark.parametrize(("width", "encoding"), [(60, "utf-8"), (100, "ascii")])
def test_a_narrow_terminal_and_one_without_blocks_get_numbers(width: int, encoding: str) -> None:
    curves = Curves()
    curves.add(record(1))
    curves.add(record(2))
    lines = shown(curves, width, encoding)
    assert lines[1].split() == ["right", "5.0%", "10.0%", "5.0%", "10.0%"]
    assert "\n".join(lines).isascii()


def recipe(output: Path) -> Recipe:
    return make_recipe(
        {
            "output": str(output),
            "steps": 4,
            "policy": {"model": "none"},
            "data": {"prompts": "none"},
            "credit": {"reward": "outcome"},
            "logging": {"tensorboard": False},
        }
    )


def run(output: Path, first: int, last: int) -> str:
    """What a run of these steps prints to a pipe."""
    printed = io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        contextlib.closing(Logs(recipe(output), first=first)) as logs,
    ):
        for step in range(first + 1, last + 1):
            numbers = {name: v for name, v in record(step).items() if name not in ("kind", "step")}
            times = {"step_seconds": 1.0, "wait_seconds": 0.0}
            logs.step(step, {**numbers, **times, "failures": {}}, StepSamples([], [], None, 0.0))
    return printed.getvalue()


@pytest.mark.parametrize("forced", [{}, {"FORCE_COLOR": "1"}])
def test_a_pipe_gets_the_curves_once_and_no_animation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forced: dict[str, str]
) -> None:
    for name, value in forced.items():
        monkeypatch.setenv(name, value)
    printed = run(tmp_path, 0, 4)
    assert printed.count("steps 1 to") == 1 and "steps 1 to 4" in printed.splitlines()[4]
    assert "\r" not in printed and "\x1b[?25l" not in printed and "\x1b[1A" not in printed
    if not forced:
        assert "\x1b" not in printed
    assert max(map(len, printed.splitlines()[:4])) <= 80


def test_a_resumed_run_shows_the_steps_before(tmp_path: Path) -> None:
    run(tmp_path, 0, 3)
    assert "steps 1 to 4" in run(tmp_path, 2, 4), "step 3 is done again and counts once"
    lines = run(tmp_path, 4, 4).splitlines()
    assert lines[0] == "resumed after step 4" and lines[1].startswith("steps 1 to 4 ")
