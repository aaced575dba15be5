"""Estimate what a judge costs: GPU-seconds per 1,000 rollouts, by arithmetic. Measures nothing.

    make bench-cost          # the tables of docs/cost.md, and build/bench/cost.json
    .venv/bin/python bench/cost.py --parameters 8.2 --layers 36 --kv-heads 8 --hidden 4096 \\
        --tokens 2000 --steps 20 --critiques 4 --written 70

The second form estimates one judge and workload of your own. The arithmetic is in
bench/estimates.py, that of a whole training step in bench/training_step.py; docs/cost.md has the
formula in words. Where a service runs, `capo doctor` measures what this only estimates.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import training_step
from estimates import (
    GPUS,
    H100,
    JUDGES,
    PUBLISHED,
    WRITTEN,
    Estimate,
    Gpu,
    Judge,
    Workload,
    estimate,
)

OUT = Path("build/bench/cost.json")
MANY = 1000  # GPUs; beyond, a number says nothing

LENGTHS = (1000, 4000, 16000)
TOKENS_PER_STEP = 100
STEP_COLUMNS = (
    "| judge | critiques | GPUs of a replica | one rollout alone, s | GPU-seconds of a step | "
    "GPUs, all sent at the end | GPUs, sent as they finish | the same, simulated |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def table(gpu: Gpu) -> str:
    """A table in Markdown: GPU-seconds per 1,000 rollouts, by judge, length and style."""
    styles = ", ".join(WRITTEN)
    lines = [
        f"| {gpu.name} | GPUs of a replica | "
        + " | ".join(f"{tokens:,} tokens: {styles}" for tokens in LENGTHS)
        + " |",
        "|---|---|" + "---|" * len(LENGTHS),
    ]
    for judge in JUDGES:
        cells = []
        for tokens in LENGTHS:
            works = [
                Workload(tokens, tokens // TOKENS_PER_STEP, written=written)
                for written in WRITTEN.values()
            ]
            cells.append(" / ".join(rounded(1000 * _seconds(gpu, judge, work)) for work in works))
        lines.append(f"| {judge.name} | {judge.gpus(gpu)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _seconds(gpu: Gpu, judge: Judge, work: Workload) -> float:
    return estimate(gpu, judge, work).gpu_seconds


def rounded(value: float) -> str:
    """Two significant digits: the assumptions are no better than that."""
    digits = max(0, math.floor(math.log10(value)) - 1)
    return f"{round(value, -digits):,.0f}"


def rows() -> list[dict[str, object]]:
    """Every cell of the tables, with its parts."""
    found: list[dict[str, object]] = []
    for gpu in GPUS:
        for judge in JUDGES:
            for tokens in LENGTHS:
                for style, written in WRITTEN.items():
                    work = Workload(tokens, tokens // TOKENS_PER_STEP, written=written)
                    found.append(
                        {"gpu": gpu.name, "judge": judge.name, "tokens": tokens, "style": style}
                        | _parts(estimate(gpu, judge, work))
                    )
    return found


def _parts(found: Estimate) -> dict[str, object]:
    return {
        "gpus": found.gpus,
        "sequences": found.sequences,
        "reading_s": found.reading,
        "writing_s": found.writing,
        "gpu_seconds_per_1000_rollouts": 1000 * found.gpu_seconds,
    }


def published() -> str:
    """A table in Markdown: the formula against published measurements of vLLM."""
    lines = [
        "| published, tokens/s (read and written) | the formula | ratio |",
        "|---|---|---|",
    ]
    for each in PUBLISHED:
        rate = each.estimated
        lines.append(
            f"| {each.judge.name} on one {each.gpu.name.split()[0]}, {each.read:,} in, "
            f"{each.written} out: {each.rate:,} | {rounded(rate)} | {rate / each.rate:.2f} |"
        )
    return "\n".join(lines) + "\n"


def step_row(judge: Judge, style: training_step.Style) -> str:
    """What arithmetic says of a training step, as the first cells of a row."""
    replica = training_step.chosen(H100, judge, style)
    at_end, streamed = (count * replica.gpus for count in training_step.arithmetic(replica))
    work = training_step.ROLLOUTS * replica.estimate.gpu_seconds
    end = f"{at_end:,}" if at_end <= MANY else f"over {MANY:,}"
    return (
        f"| {judge.name} | {style.name} | {replica.gpus} | {replica.seconds(1):.1f} | "
        f"{rounded(work)} | {end} | {streamed} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Estimate the cost of a judge.")
    parser.add_argument("--parameters", type=float, help="billions")
    parser.add_argument("--layers", type=int, help="num_hidden_layers of config.json")
    parser.add_argument("--kv-heads", type=int, help="num_key_value_heads")
    parser.add_argument("--hidden", type=int, help="hidden_size")
    parser.add_argument("--tokens", type=int, default=1000, help="of a rollout")
    parser.add_argument("--steps", type=int, default=10, help="of a rollout")
    parser.add_argument("--critiques", type=int, default=4, help="k")
    parser.add_argument("--written", type=int, default=WRITTEN["brief"], help="tokens a critique")
    parser.add_argument("--group", type=int, default=16, help="rollouts per question")
    given = parser.parse_args()
    if given.parameters is None:
        print_tables()
        return
    if None in (given.layers, given.kv_heads, given.hidden):
        parser.error("--parameters needs --layers, --kv-heads and --hidden (see config.json)")
    judge = Judge("yours", given.parameters * 1e9, given.layers, given.kv_heads, given.hidden)
    work = Workload(given.tokens, given.steps, given.critiques, given.written, group=given.group)
    for gpu in GPUS:
        found = estimate(gpu, judge, work)
        print(
            f"{gpu.name}: {found.gpus} GPUs, {found.sequences} sequences at once; per rollout "
            f"{found.reading:.3f} s reading and {found.writing:.3f} s writing; "
            f"{rounded(1000 * found.gpu_seconds)} GPU-seconds per 1,000 rollouts (an estimate)"
        )


def print_tables() -> None:
    print("Estimates, not measurements: GPU-seconds per 1,000 rollouts.\n")
    print("\n".join(table(gpu) for gpu in GPUS))
    print(published())
    print(STEP_COLUMNS, end="")
    needs = []
    for judge, style in training_step.cases():
        found = training_step.need(H100, judge, style)
        needs.append({"judge": judge.name, "style": style.name} | found.as_json())
        print(f"{step_row(judge, style)} {found.simulated} |", flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    report = {"measured": False, "rows": rows(), "step_s": training_step.STEP, "steps": needs}
    OUT.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
