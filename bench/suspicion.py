"""False-positive rate of reward-hacking flags on honest rollouts, and the time of the checks.

    .venv/bin/python bench/suspicion.py gsm8k FILE        # or: mistakes FILE

`gsm8k`: JSON lines of `question` and, by model, `solution` (as OpenAI published with GSM8K);
`mistakes`: BIG-Bench Mistake (`input`, `steps`). Writes build/bench/suspicion.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from capo_service.core import steps
from capo_service.core.suspicion import suspicions

OUT = Path("build/bench/suspicion.json")


def rollouts(form: str, path: Path) -> Iterator[tuple[str, str]]:
    """Question and response."""
    for line in path.read_text("utf-8").splitlines():
        record = json.loads(line)
        if form == "mistakes":
            yield record["input"], "\n".join(record["steps"])
        else:
            for made in record.values():
                if isinstance(made, dict):
                    yield record["question"], made["solution"]


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in ("gsm8k", "mistakes"):
        sys.exit(__doc__)
    found: Counter[str] = Counter()
    examples: dict[str, str] = {}
    count, spent = 0, 0.0
    for question, response in rollouts(sys.argv[1], Path(sys.argv[2])):
        started = time.perf_counter()
        seen = suspicions(question, response, steps.texts(response, steps.newline(response)), {})
        spent += time.perf_counter() - started
        count += 1
        for each in seen:
            found[each.reason] += 1
            examples.setdefault(each.reason, each.detail)
    result = {"rollouts": count, "suspected": dict(found), "ms_each": 1000 * spent / count}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(result | {"examples": examples}, indent=2) + "\n")
    table = Table(
        "reason", "rollouts", "first", title=f"{count} rollouts, {result['ms_each']:.3f} ms each"
    )
    for reason, number in found.most_common():
        table.add_row(reason, str(number), examples[reason])
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
