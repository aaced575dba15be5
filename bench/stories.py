"""Labelled solutions of the testbed's kind, for `capo eval`; nothing is measured.

    make bench-stories      # build/bench/stories.jsonl

The testbed's demonstrations with mistakes (seed 1, which no model there was trained on) answer 300
questions; the testbed's checker labels the wrong steps.
"""

from __future__ import annotations

import json
import random

from engines import OUT

from capo_testbed import tasks
from capo_testbed.common import Solution

COUNT = 300


def main() -> None:
    chance = random.Random(1)
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "stories.jsonl").open("w") as file:
        for _ in range(COUNT):
            task = tasks.make_task(chance)
            text = tasks.demonstrate(task, chance, tasks.DEMONSTRATIONS)
            wrong = [i for i, is_wrong in enumerate(Solution(task, text).wrong()) if is_wrong]
            entry = {
                "question": task.question,
                "steps": tasks.split(text),
                "wrong_steps": wrong,
            }
            file.write(json.dumps(entry) + "\n")
    print(f"{COUNT} solutions in {file.name}")


if __name__ == "__main__":
    main()
