"""Summary of the experiment: results.json, plots, and the tables of docs/experiment.md.

Intervals are 95% over seeds, by Student's t.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

import typer

from capo_testbed.experiment.questions import QUESTIONS, all_settings
from capo_testbed.experiment.runs import DONE, is_done, records
from capo_testbed.experiment.settings import Setting, run_folder

# Two-sided 95% quantiles of Student's t, by degrees of freedom.
_T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
_MEASURES = {
    "greedy_accuracy": "answer accuracy",
    "greedy_wrong_step_rate": "wrong steps",
    "greedy_lucky_rate": "right with a wrong step",
    "greedy_tokens": "tokens",
}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% interval (0 for one value)."""
    if len(values) < 2:
        return fmean(values), 0.0
    return fmean(values), _T95[len(values) - 1] * stdev(values) / len(values) ** 0.5


def collect(out: Path, settings: Iterable[Setting]) -> dict[str, Any]:
    """For each setting with finished runs: its measures at each evaluation, and its costs."""
    found: dict[str, Any] = {}
    for setting in settings:
        runs = [run_folder(out, setting, seed) for seed in range(setting.seeds)]
        runs = [run for run in runs if is_done(run)]
        if not runs:
            continue
        curves = [records(run, "evaluation") for run in runs]
        trained = [records(run, "train") for run in runs]
        found[setting.name] = {
            "expected": setting.expected,
            "commits": sorted({_commit(run) for run in runs}),
            "seeds": len(runs),
            "steps": [record["step"] for record in curves[0]],
            "curves": {
                name: [[record[name] for record in at] for at in zip(*curves, strict=True)]
                for name in _MEASURES
            },
            "judge_tokens_per_train_token": [
                sum(_judge_tokens(r) for r in steps) / max(sum(r["tokens"] for r in steps), 1)
                for steps in trained
            ],
            "critiques_per_rollout": [
                sum(r["critiques"] for r in steps) / max(sum(r["rollouts"] for r in steps), 1)
                for steps in trained
            ],
            "uncredited": sum(r["uncredited"] for steps in trained for r in steps),
        }
    return found


def _commit(run: Path) -> str:
    return str(json.loads((run / DONE).read_text())["commit"])


def _judge_tokens(record: dict[str, Any]) -> int:
    """Tokens that the judge computed: uncached prompt tokens and completion tokens."""
    read = record["judge_prompt_tokens"] - record["judge_cached_tokens"]
    return int(read + record["judge_completion_tokens"])


def table(found: dict[str, Any], names: Sequence[str]) -> str:
    """A Markdown table of final measures."""
    head = ["runs", *_MEASURES.values(), "judge tokens per training token"]
    lines = ["| setting | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for name in names:
        if name not in found:
            continue
        cells = [str(found[name]["seeds"])]
        for measure in _MEASURES:
            mean, half = interval(found[name]["curves"][measure][-1])
            if measure.endswith("tokens"):
                cells.append(f"{mean:.1f} ± {half:.1f}")
            else:
                cells.append(f"{100 * mean:.1f} ± {100 * half:.1f}")
        cells.append(f"{fmean(found[name]['judge_tokens_per_train_token']):.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot_curves(found: dict[str, Any], names: Sequence[str], target: Path) -> None:
    """Measures over training, with 95% bands."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = ["greedy_accuracy", "greedy_wrong_step_rate", "greedy_lucky_rate", "greedy_tokens"]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(17, 4.4), constrained_layout=True)
    styles = ["-", "--", "-.", ":"]
    for axis, measure in zip(axes, shown, strict=True):
        factor = 1 if measure.endswith("tokens") else 100
        for number, name in enumerate(n for n in names if n in found):
            start = found["sft"]["curves"][measure] if "sft" in found else []
            at = [0] * len(start) + found[name]["steps"]
            intervals = [interval(values) for values in start + found[name]["curves"][measure]]
            means = [factor * mean for mean, _ in intervals]
            [line] = axis.plot(at, means, styles[number % 4], label=name, linewidth=1.8)
            lower = [factor * (mean - half) for mean, half in intervals]
            upper = [factor * (mean + half) for mean, half in intervals]
            axis.fill_between(at, lower, upper, color=line.get_color(), alpha=0.12, linewidth=0)
        if factor == 1:  # lengths hardly change; a tight axis would exaggerate it
            low, high = axis.get_ylim()
            axis.set_ylim(min(low, 0.9 * high), max(high, 1.1 * low))
        axis.set_title(_MEASURES[measure] + ("" if factor == 1 else ", %"))
        axis.set_xlabel("training steps")
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(target, dpi=110)
    pyplot.close(figure)


def main(
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("build/experiment"),
    docs: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("docs"),
) -> None:
    """Summarise the experiment."""
    found = collect(out, all_settings().values())
    if not found:
        typer.echo(f"no finished run in {out}: run `make experiment`", err=True)
        raise typer.Exit(1)
    folder = docs / "experiment"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    tables = {q.name: table(found, [s.name for s in q.settings]) for q in QUESTIONS}
    for question in QUESTIONS:
        names = [setting.name for setting in question.settings]
        plot_curves(found, names, folder / f"{question.name}.png")
    page = docs / "experiment.md"
    if page.exists():
        text = page.read_text()
        for name, content in tables.items():
            if f"<!-- table: {name} -->" not in text:
                continue
            start, rest = text.split(f"<!-- table: {name} -->\n", 1)
            end = rest[rest.index("<!-- end -->") :]
            text = f"{start}<!-- table: {name} -->\n{content}\n{end}"
        page.write_text(text)
    for content in tables.values():
        typer.echo(content + "\n")


if __name__ == "__main__":
    typer.run(main)
