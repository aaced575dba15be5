"""What the judge's credit teaches: CAPO against outcome rewards, on the testbed, five seeds.

    make bench-credit                       (a quarter of an hour on two cores)
    .venv/bin/python bench/credit.py --seeds 2

The runs are those of `make experiment` (docs/experiment.md) that the README quotes: equal rollouts
and updates, 32 steps, greedy answers to 400 held-out questions. The testbed is built first if it
does not exist; finished runs are kept. Intervals are 95% over seeds, by Student's t. Writes
build/bench/credit.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from capo_testbed import report
from capo_testbed.cli import testbed
from capo_testbed.experiment import METHODS, SEEDS, SFT, ExperimentScale, run_all
from capo_trainer.paths import testbed_folder

OUT = Path("build/bench")
NAMES = ("grpo", "capo-majority")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="number of seeds")
    seeds = SEEDS[: parser.parse_args().seeds]
    testbed(folder=None, quick=False, seed=0, force=False)
    settings = (SFT, *(setting for setting in METHODS if setting.name in NAMES))
    run_all(settings, seeds, ExperimentScale(), testbed_folder(), OUT / "credit", workers=2)
    found = report.collect(OUT / "credit", settings, seeds)
    (OUT / "credit.json").write_text(json.dumps(found, indent=2) + "\n")
    print(report.table(found, [setting.name for setting in settings]))


if __name__ == "__main__":
    main()
