"""Credit for agents: does it find the wrong turn, and does a policy learn more from it?

    make bench-agents                            (about two hours on one core; resumable)
    .venv/bin/python bench/agents.py --quick     (all parts, far too small to mean anything)
    .venv/bin/python bench/agents.py --seeds 2

The environment has a look-up table and a calculator, and every turn in it is decidable
(capo_testbed/agents.py). A policy of 0.4 M parameters and a judge of 0.6 M are trained from
scratch. Then:

1. Turn precision, recall and F1 of the judges, through the service, on trajectories of the policy.
   The judge sees calls and observations. The arithmetic checker reads only what the policy wrote,
   so that it finds false equations in which a result is misstated. It cannot know a wrong argument,
   a repeated look-up or a number that was never observed: its recall is expected to be low.
2. The policy learns from equal numbers of rollouts and updates by three rewards (agents_runs.ARMS):
   the outcome alone, with the judge's penalties on turns, and with the same number of penalties on
   random turns of the same rollout. What is expected of each is in `agents_runs.EXPECTED`.

Models, finished runs and the measured judges are kept in build/bench/agents. Writes
build/bench/agents.json, with an interval for `turn_f1` (bootstrap over trajectories) and
`accuracy_*` (bootstrap over seeds), and the curves as build/bench/agents.png.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import agents_judges
import agents_runs
from agents_runs import ARMS, Scale
from rich.console import Console
from rich.table import Table

from capo_testbed.agents_build import build
from capo_testbed.agents_models import QUICK, AgentSizes

OUT = Path("build/bench")
SEEDS = 5


def measure(
    folder: Path, sizes: AgentSizes, scale: Scale, seeds: int, arms: list[str], workers: int = 1
) -> dict[str, Any]:
    """Everything that is not measured yet.

    Args:
        folder: where models, runs and the measured judges are kept.
        sizes: of the models.
        scale: of the runs.
        seeds: number of seeds.
        arms: of `ARMS`.
        workers: runs in parallel.
    """
    started = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {line}", flush=True)

    models, runs = folder / "models", folder / "runs"
    built = build(models, sizes, 0, report)
    judged = _judged(folder, models, sizes, report)
    mark = {"scale": str(scale), "policy": built["policy"], "judge_rounds": built["judge_rounds"]}
    marked = runs / "mark.json"
    if marked.exists() and json.loads(marked.read_text()) != mark:
        raise SystemExit(f"{runs} has runs of other models or of another length: delete it")
    runs.mkdir(parents=True, exist_ok=True)
    marked.write_text(json.dumps(mark))
    agents_runs.run_missing(range(seeds), arms, scale, models, runs, report, workers)
    found = agents_runs.collect(runs, range(seeds))
    best = judged["judges"]["trained judge, greedy"]
    return {
        "turn_f1": {"mean": best["f1"], "low": best["low"], "high": best["high"]},
        **agents_runs.results(found),
        "judged": judged,
        "runs": found,
        "models": built,
        "scale": str(scale),
    }


def _judged(folder: Path, models: Path, sizes: AgentSizes, report: Any) -> dict[str, Any]:
    """The judges' figures; measured once for the models that are there."""
    path, weights = folder / "judged.json", (models / "judge" / "model.safetensors").stat()
    mark = [weights.st_size, weights.st_mtime_ns]
    if path.exists() and (kept := json.loads(path.read_text()))["mark"] == mark:
        return dict(kept["figures"])
    report("measuring the judges")
    found = agents_judges.measure(models, folder, sizes.held_out)
    path.write_text(json.dumps({"mark": mark, "figures": found}))
    return found


def show(found: dict[str, Any]) -> None:
    """The tables."""
    judged = found["judged"]
    title = f"{judged['wrong_turns']} wrong of {judged['turns']} turns"
    table = Table("judge", "F1", "95%", "precision", "recall", "unlucky turns named", title=title)
    for name, each in judged["judges"].items():
        precision = "-" if each["precision"] is None else f"{each['precision']:.3f}"
        bounds = f"{each['low']:.3f} to {each['high']:.3f}"
        shown = (f"{each['f1']:.3f}", bounds, precision, f"{each['recall']:.3f}")
        table.add_row(name, *shown, f"{each['unlucky_named']:.3f} of {each['unlucky']}")
    Console(width=110).print(table)
    table = Table(
        "reward", "seeds", "answers right", "wrong turns", "sampled: right", "wrong turns"
    )
    for arm, each in found["runs"].items():
        names = ("accuracy", "wrong_turns", "sampled_accuracy", "sampled_wrong_turns")
        table.add_row(
            arm, str(len(each["seeds"])), *(_percent(found[f"{name}_{arm}"]) for name in names)
        )
    Console(width=110).print(table)
    for other in ("outcome", "random_turns"):
        if f"gain_over_{other}" in found:
            print(f"turn_credit less {other}: {_percent(found[f'gain_over_{other}'])}")


def _percent(each: dict[str, Any]) -> str:
    mean, low, high = (100 * each[name] for name in ("mean", "low", "high"))
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def draw(found: dict[str, Any], path: Path) -> None:
    """Curves over training, with the interval over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    titles = {
        "accuracy": "answers right, greedy, %",
        "wrong_turns": "wrong turns, greedy, %",
        "sampled_accuracy": "answers right, sampled, %",
        "sampled_wrong_turns": "wrong turns, sampled, %",
    }
    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for axis, (name, title) in zip(axes.flat, titles.items(), strict=True):
        for arm, each in found["runs"].items():
            at = [agents_runs.interval(values) for values in zip(*each[name], strict=True)]
            [line] = axis.plot(each["steps"], [100 * one["mean"] for one in at], "o-", label=arm)
            low, high = ([100 * one[edge] for one in at] for edge in ("low", "high"))
            axis.fill_between(each["steps"], low, high, color=line.get_color(), alpha=0.15)
        axis.set(title=title, xlabel="training steps")
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS, help="number of seeds")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--workers", type=int, default=1, help="runs in parallel")
    parser.add_argument("--quick", action="store_true", help="tiny models and short runs")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the results")
    options = parser.parse_args()
    sizes, scale, seeds, name = AgentSizes(), Scale(), options.seeds, "agents"
    if options.quick:
        sizes, scale, seeds, name = QUICK, agents_runs.QUICK, 1, "agents-quick"
    found = measure(options.out / name, sizes, scale, seeds, options.arms, options.workers)
    path = options.out / f"{name}.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    show(found)
    if found["runs"]:
        draw(found, path.with_suffix(".png"))
    print(f"written: {path}")


if __name__ == "__main__":
    main()
