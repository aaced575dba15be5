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
from dataclasses import asdict
from pathlib import Path

from capo_testbed.cli import testbed
from capo_testbed.experiment.collect import collect
from capo_testbed.experiment.questions import GRPO, MAJORITY, SFT, Question
from capo_testbed.experiment.runs import run_all
from capo_testbed.experiment.settings import SEEDS, Scale
from capo_testbed.experiment.tables import settings_table
from capo_trainer.paths import testbed_folder

OUT = Path("build/bench")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="number of seeds")
    seeds = parser.parse_args().seeds
    testbed(folder=None, quick=False, seed=0, force=False)
    settings = (SFT, GRPO, MAJORITY)
    question = Question("credit", "What does the judge's credit teach?", settings)
    run_all(settings, seeds, Scale(), testbed_folder(), OUT / "credit", workers=2)
    found = collect(OUT / "credit", settings)
    written = {name: asdict(result) for name, result in found.items()}
    (OUT / "credit.json").write_text(json.dumps(written, indent=2) + "\n")
    print(settings_table(question, found))


if __name__ == "__main__":
    main()
