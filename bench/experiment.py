"""What `make experiment` found, in a few figures: gains over GRPO in points, with 95% intervals.

    make bench-experiment                                (from finished runs; makes none)
    .venv/bin/python bench/experiment.py --quick         (from the runs of `make experiment-quick`)

`gain_judge` (majority of four critiques), `gain_oracle` (the checker's own step labels) and
`gain_random` (as many penalties of the judge, on random steps of the same rollout) are points of
greedy accuracy after 32 steps, paired by seed. `gain_equal_compute` is the gain of one greedy
critique over GRPO that is given the judge's FLOPs as more steps; `gain_equal_compute_steps` and
`_rollouts` have it for judges of 1, 8 and 72 times the policy's parameters. `wrong_step_reduction`
is the part of GRPO's wrong steps that CAPO avoids, in percent. None means that runs are missing;
which, and the command that makes them, is printed. Writes build/bench/experiment.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from capo_testbed.experiment.report import read_runs
from capo_testbed.experiment.summary import bench_figures
from capo_testbed.experiment.tables import missing_runs, mixed_commits
from capo_trainer.paths import testbed_folder

RUNS, QUICK_RUNS = Path("build/experiment"), Path("build/experiment-quick")
OUT = Path("build/bench")


def shown(value: Any) -> str:
    """A figure as one line."""
    if not isinstance(value, dict) or "mean" not in value:
        return "runs are missing" if value is None else str(value)
    if value["low"] is None:
        return f"{value['mean']:+.1f} (one seed, so no interval)"
    interval = f"[{value['low']:.1f}, {value['high']:.1f}]"
    return f"{value['mean']:+.1f} {interval}, {value['seeds']} seeds"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, help=f"folder of the runs; default: {RUNS}")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of experiment.json")
    parser.add_argument("--quick", action="store_true", help=f"runs are in {QUICK_RUNS}")
    options = parser.parse_args()
    runs = options.runs or (QUICK_RUNS if options.quick else RUNS)
    results = read_runs(runs, testbed_folder())
    if not results.settings:
        command = "make experiment-quick" if options.quick else "make experiment"
        sys.exit(f"no finished run in {runs}: make them with `{command}`")
    figures = bench_figures(results)
    for name, value in figures.items():
        if isinstance(value, dict) and "mean" not in value:
            for size, each in value.items():
                print(f"{f'{name}, judge {size} times':45} {shown(each)}")
        else:
            print(f"{name:45} {shown(value)}")
    warnings = mixed_commits(results.settings)
    for line in warnings:
        print(f"warning: {line}")
    if not options.quick:
        for line in missing_runs(results):
            print(f"missing: {line}")
    commits = sorted({commit for each in results.settings.values() for commit in each.commits})
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "experiment.json"
    written = figures | {"quick": options.quick, "commits": commits, "warnings": warnings}
    path.write_text(json.dumps(written, indent=2) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
