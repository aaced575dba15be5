"""Figures of docs/experiment.md, one for each question, from results.json alone.

Colours are Okabe and Ito's, which people with colour blindness can tell apart; markers differ too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from capo_testbed.experiment.collect import ACCURACY, Result, Results, computed_judge_tokens
from capo_testbed.experiment.intervals import Interval, student
from capo_testbed.experiment.plots_single import compute_figure, errors_figure, votes_figure
from capo_testbed.experiment.plotting import COLOURS, MARKERS, interval_line, new_figure, saved
from capo_testbed.experiment.questions import Question
from capo_testbed.experiment.reported import REPORTED
from capo_testbed.experiment.tables import WRONG, gains_of

_TOKENS = "greedy_tokens"
# Measure, factor to its unit, and label.
_COMPARED = (
    (ACCURACY, 100, "right answers over GRPO, points"),
    (WRONG, 100, "wrong steps over GRPO's, points"),
    (_TOKENS, 1, "tokens of a response over GRPO's"),
)


def draw_all(results: Results, folder: Path) -> list[str]:
    """Write NAME.png for each question that has runs to compare. Returns the names."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        question.name
        for question in REPORTED
        if _DRAWN.get(question.name, settings_figure)(question, results, folder)
    ]


def settings_figure(question: Question, results: Results, folder: Path) -> bool:
    """Learning curves, and each setting against its baseline. False: nothing to compare."""
    found = [s for s in question.settings if s.name in results.settings and s.steps != 0]
    gains = _gains(question, results.settings)
    if not gains:
        return False
    figure, axes = new_figure(1, 3, height=2.2 + 0.24 * len(gains), widths=(1.25, 1, 1))
    # Where the question is about length, length is shown.
    grows = question.name == "hacking"
    shown = [setting.name for setting in found][: len(COLOURS)]
    _curves(axes[0][0], results.settings, shown, _TOKENS if grows else ACCURACY)
    names = list(gains)
    compared = (_COMPARED[0], _COMPARED[2] if grows else _COMPARED[1])
    for axis, (measure, _, title) in zip(axes[0][1:], compared, strict=True):
        for at, name in enumerate(names):
            if (gained := gains[name].get(measure)) is not None:
                interval_line(axis, gained, at, shown.index(name) if name in shown else None)
        axis.axvline(0, color="grey", linewidth=1)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_yticks(range(len(names)), names)
        axis.set_xlabel(title)
        axis.grid(axis="x", alpha=0.3)
    axes[0][2].set_yticks(range(len(names)), [""] * len(names))
    saved(figure, folder / f"{question.name}.png")
    return True


def _gains(question: Question, results: Mapping[str, Result]) -> dict[str, dict[str, Interval]]:
    """By setting and measure, over its baseline."""
    found: dict[str, dict[str, Interval]] = {}
    for measure, factor, _ in _COMPARED:
        for name, difference in gains_of(question, results, measure, factor).items():
            found.setdefault(name, {})[measure] = difference
    return found


def _curves(axis: Any, results: Mapping[str, Result], names: Sequence[str], measure: str) -> None:
    """A measure over training, with 95% bands."""
    factor = 1 if measure == _TOKENS else 100
    for number, name in enumerate(names):
        result = results[name]
        if measure not in result.curves or not result.steps:
            continue
        by_step = [
            student([factor * value for value in at])
            for at in zip(*result.curves[measure], strict=True)
        ]
        style = {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 4}
        axis.plot(result.steps, [each.mean for each in by_step], label=name, **style)
        bands = [(each.low, each.high) for each in by_step]
        if all(low is not None for low, _ in bands):
            low, high = zip(*bands, strict=True)
            colour = COLOURS[number]
            axis.fill_between(result.steps, low, high, color=colour, alpha=0.1, linewidth=0)
    axis.set_xlabel("training steps")
    axis.set_ylabel("tokens of a response" if factor == 1 else "right answers, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, frameon=False)


def thinking_figure(question: Question, results: Results, folder: Path) -> bool:
    """Gain over the tokens that the judge computed for each rollout."""
    gains = _gains(question, results.settings)
    if not gains:
        return False
    figure, axes = new_figure(1, 2, height=3.2)
    axis = axes[0][0]
    names = [s.name for s in question.settings if s.name in results.settings and s.steps != 0]
    _curves(axis, results.settings, names, ACCURACY)
    axis = axes[0][1]
    for name, found in gains.items():
        result, colour = results.settings[name], COLOURS[names.index(name)]
        spent = [
            computed_judge_tokens(total) / max(total["rollouts"], 1)
            for total in map(result.of_seed, result.seeds)
        ]
        at = found[ACCURACY]
        at_x = student(spent).mean
        below = 0.0 if at.low is None else at.mean - at.low
        axis.errorbar([at_x], [at.mean], [below], color=colour, marker="o", capsize=3, label=name)
    axis.axhline(0, color="grey", linewidth=1)
    axis.set_xlim(left=0)
    axis.set_xlabel("judge tokens computed for each rollout")
    axis.set_ylabel("right answers over GRPO, points")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, frameon=False)
    saved(figure, folder / f"{question.name}.png")
    return True


_DRAWN: Mapping[str, Callable[[Question, Results, Path], bool]] = {
    "compute": compute_figure,
    "votes": votes_figure,
    "errors": errors_figure,
    "thinking": thinking_figure,
}
