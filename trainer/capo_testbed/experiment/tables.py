"""Tables of docs/experiment.md that hold for every question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from capo_testbed.experiment.collect import ACCURACY, Result, Results
from capo_testbed.experiment.intervals import (
    Interval,
    blocks,
    paired,
    part_of_the_way,
    student,
)
from capo_testbed.experiment.questions import Question
from capo_testbed.experiment.reported import REPORTED, command_of
from capo_testbed.experiment.settings import SEEDS, Setting

NONE = "No finished runs yet."
WRONG = "greedy_wrong_step_rate"
_POOLED = 5  # settings, the baseline among them
# Measures at the last evaluation, and the factor to the unit that is shown.
_LEVELS = {
    ACCURACY: ("right answers, %", 100),
    WRONG: ("wrong steps, %", 100),
    "greedy_lucky_rate": ("right with a wrong step, %", 100),
    "greedy_tokens": ("tokens", 1),
}


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; `NONE` without rows."""
    if not rows:
        return NONE
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def is_baseline(setting: Setting) -> bool:
    """Whether it learns from outcomes alone, for as long as others do."""
    outcome = setting.changes.get("credit", {}).get("reward") == "outcome"
    return outcome and setting.steps != 0


def baseline_of(question: Question, setting: Setting) -> Setting | None:
    """What a setting is compared with: outcomes alone, on the same tasks and, where there is one,
    with the same averaging; None for a baseline itself."""

    def average(each: Setting) -> object:
        return each.changes.get("algorithm", {}).get("average")

    candidates = [s for s in question.settings if is_baseline(s) and s.bed == setting.bed]
    alike = [s for s in candidates if average(s) == average(setting)]
    found = next(iter(alike or candidates), None)
    return None if found == setting else found


def gain(
    results: Mapping[str, Result], name: str, baseline: str, measure: str = ACCURACY
) -> Interval | None:
    """Points of a measure over the baseline's at the last evaluation, paired by seed."""
    if name not in results or baseline not in results:
        return None
    found = paired(results[name].final(measure), results[baseline].final(measure))
    return None if found is None else found.scaled(100)


def gains_of(
    question: Question, results: Mapping[str, Result], measure: str = ACCURACY, factor: float = 100
) -> dict[str, Interval]:
    """Each setting's measure over its baseline's.

    Settings with fewer than five seeds and the same baseline are compared as `blocks`, where there
    are at least four of them; others are paired by seed.
    """
    found: dict[str, Interval] = {}
    groups: dict[tuple[str, int], dict[str, Mapping[int, float]]] = {}
    for setting in question.settings:
        baseline = baseline_of(question, setting)
        if baseline is None or setting.steps == 0:
            continue
        if setting.name not in results or baseline.name not in results:
            continue
        ours, theirs = (results[each].final(measure) for each in (setting.name, baseline.name))
        if (difference := paired(ours, theirs)) is not None:
            found[setting.name] = difference.scaled(factor)
        if 2 <= setting.seeds < SEEDS and set(range(setting.seeds)) == set(ours) <= set(theirs):
            shared = {seed: theirs[seed] for seed in ours}
            group = groups.setdefault((baseline.name, len(ours)), {baseline.name: shared})
            group[setting.name] = ours
    for (base, _), group in groups.items():
        if len(group) >= _POOLED:
            pooled = blocks(group, base)
            found |= {name: each.scaled(factor) for name, each in pooled.items()}
    return found


def covered(results: Mapping[str, Result], name: str) -> Interval | None:
    """How much of the way from GRPO to the oracle a setting covers, in percent."""
    if any(each not in results for each in (name, "grpo", "oracle")):
        return None
    finals = [results[each].final(ACCURACY) for each in (name, "grpo", "oracle")]
    found = part_of_the_way(*finals)
    return None if found is None else found.scaled(100)


def level(result: Result, measure: str, factor: float = 100) -> str:
    """A cell: the mean of the last evaluation; empty where it was not measured."""
    values = list(result.final(measure).values())
    return student([factor * value for value in values]).level() if values else ""


def settings_table(question: Question, results: Mapping[str, Result]) -> str:
    """One line for each setting of a question that has runs."""
    found = [setting for setting in question.settings if setting.name in results]
    oracle = question.name == "controls"
    head = ["setting", "seeds", *(title for title, _ in _LEVELS.values())]
    head.insert(3, "gain over GRPO, points")
    if oracle:
        head.append("of the way to the oracle, %")
    head.append("judge tokens per token")
    gains = gains_of(question, results)
    rows = []
    for setting in found:
        result = results[setting.name]
        cells = [setting.name, str(len(result.seeds))]
        cells += [level(result, measure, factor) for measure, (_, factor) in _LEVELS.items()]
        cells.insert(3, gains[setting.name].gain() if setting.name in gains else "")
        if oracle:
            cells.append(_covered_cell(results, setting.name))
        cells.append(f"{result.judge_tokens_per_token:.2f}")
        rows.append(cells)
    return markdown(head, rows)


def _covered_cell(results: Mapping[str, Result], name: str) -> str:
    if name in ("sft", "grpo", "oracle"):
        return ""
    share = covered(results, name)
    if share is None:
        return ""
    if share.low is None or share.high is None:
        return f"{share.mean:.0f}"
    return f"{share.mean:.0f} [{share.low:.0f}, {share.high:.0f}]"


def expectations(question: Question) -> str:
    """What was expected of each setting, those with the same words together."""
    lines = []
    for expected, group in groupby(
        sorted(question.settings, key=lambda s: _first(question, s.expected)),
        key=lambda s: s.expected,
    ):
        names = ", ".join(f"`{setting.name}`" for setting in group)
        name = expected[1:2].isupper()  # such as GRPO
        lines.append(f"- {names}: {expected if name else expected[0].lower() + expected[1:]}")
    return "\n".join(lines)


def _first(question: Question, expected: str) -> int:
    """The position of the first setting of which this is expected."""
    return [setting.expected for setting in question.settings].index(expected)


def commits_table(results: Mapping[str, Result]) -> str:
    """Which settings were run by which code."""
    by_commit: dict[str, list[str]] = {}
    for name, result in results.items():
        for commit in sorted(set(result.commits)):
            by_commit.setdefault(commit, []).append(f"`{name}`")
    rows = [[f"`{commit}`", ", ".join(names)] for commit, names in by_commit.items()]
    return markdown(["commit", "settings"], rows)


def mixed_commits(results: Mapping[str, Result]) -> list[str]:
    """A warning for each question whose settings were run by different code."""
    found = []
    for question in REPORTED:
        names = [s.name for s in question.settings if s.name in results]
        commits = {commit for name in names for commit in results[name].commits}
        if len(commits) > 1:
            inside = [name for name in names if len(set(results[name].commits)) > 1]
            text = f"{question.name}: runs of {len(commits)} commits are compared"
            text += f" ({', '.join(sorted(commits))})"
            found.append(text + (f"; within {', '.join(inside)}" if inside else ""))
    return found


def missing_runs(results: Results) -> list[str]:
    """Settings without all of their seeds, by question, with the command that makes them."""
    found = []
    for question in REPORTED:
        lacking = [
            setting.name
            for setting in question.settings
            if setting.name not in results.settings
            or len(results.settings[setting.name].seeds) < setting.seeds
        ]
        if lacking:
            shown = ", ".join(lacking[:6]) + (", ..." if len(lacking) > 6 else "")
            found.append(
                f"{question.name}: {len(lacking)} of {len(question.settings)} settings lack runs "
                f"({shown}): {command_of(question)}"
            )
    return found
