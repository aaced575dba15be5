"""Whether a judge finds the first error as well with short heads of steps as with long tags.

    .venv/bin/python bench/prompt_accuracy.py LABELS     # JSON lines: input, steps, mistake_index

For each labelled solution and both forms of the prompt of profile `default`, the judge's
probability of each step as the first of its list, from one pass over the prompt (the embedded judge
unless --model names another folder or hub name). Writes build/bench/prompt_accuracy.json: top-1
accuracy and the log-likelihood of the labelled step among all steps, both as paired differences
with 95% bootstrap intervals over the solutions. BIG-Bench Mistake has files of this kind.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from prompt import before, render
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from capo_service.engine import embedded
from capo_service.engine.base import JudgePrompt
from capo_service.engine.prompt_encoder import PromptEncoder
from capo_service.judges.loading import load_profile

OUT = Path("build/bench/prompt_accuracy.json")
OPENING = '{"incorrect_steps": ['
MOST_STEPS = 10  # so that the number of a step is one digit
SAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("labels", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--solutions", type=int, default=80)
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.labels.read_text().splitlines()]
    rows = [
        row
        for row in rows
        if row["mistake_index"] is not None and 2 <= len(row["steps"]) <= MOST_STEPS
    ]
    random.Random(0).shuffle(rows)
    report = measure(args.model or str(embedded.folder()), rows[: args.solutions])
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, indent=2) + "\n")
    show(report)


def measure(model: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    encoder = PromptEncoder(model)
    judge = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    digits = [last_token(encoder, str(step)) for step in range(MOST_STEPS)]
    found: dict[str, list[tuple[bool, float]]] = {}
    for form, template in (("tags", before()), ("heads", load_profile().template)):
        found[form] = []
        for row in rows:
            prompt = render(template, row["input"], row["steps"])
            ids = encoder.encode(JudgePrompt(prompt.system, prompt.user, OPENING)).ids
            with torch.inference_mode():
                logits = judge(input_ids=torch.tensor([ids]), logits_to_keep=1).logits[0, -1]
            steps = torch.log_softmax(logits[digits[: len(row["steps"])]].double(), 0).tolist()
            right = row["mistake_index"]
            found[form].append((steps.index(max(steps)) == right, steps[right]))
    pairs = list(zip(found["heads"], found["tags"], strict=True))
    return {
        "model": model,
        "solutions": len(rows),
        "chance_log_likelihood": fmean(-math.log(len(row["steps"])) for row in rows),
        "top1": {form: fmean(hit for hit, _ in found[form]) for form in found},
        "log_likelihood": {form: fmean(value for _, value in found[form]) for form in found},
        "top1_difference": interval([float(a[0]) - float(b[0]) for a, b in pairs]),
        "log_likelihood_difference": interval([a[1] - b[1] for a, b in pairs]),
    }


def last_token(encoder: PromptEncoder, text: str) -> int:
    """The token of a digit behind the opening."""
    with_digit = encoder.encode(JudgePrompt((("s", True),), (("u", True),), OPENING + text)).ids
    return with_digit[-1]


def interval(values: Sequence[float]) -> list[float]:
    """The mean, and its 95% interval."""
    rng = random.Random(1)
    means = sorted(fmean(rng.choices(values, k=len(values))) for _ in range(SAMPLES))
    return [fmean(values), means[SAMPLES // 40], means[-SAMPLES // 40 - 1]]


def show(report: dict[str, Any]) -> None:
    table = Table(
        "", "tags", "heads", "heads - tags (95%)", title=f"{report['solutions']} solutions"
    )
    for name in ("top1", "log_likelihood"):
        value, (mean, low, high) = report[name], report[f"{name}_difference"]
        difference = f"{mean:.3f} ({low:.3f} to {high:.3f})"
        table.add_row(name, f"{value['tags']:.3f}", f"{value['heads']:.3f}", difference)
    Console().print(table)
    print(f"log-likelihood by chance: {report['chance_log_likelihood']:.3f}")


if __name__ == "__main__":
    main()
