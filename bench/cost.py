"""Estimate what a judge costs: GPU-seconds per 1,000 rollouts, by arithmetic. Measures nothing.

    make bench-cost          # the tables of docs/cost.md, and build/bench/cost.json
    .venv/bin/python bench/cost.py --parameters 8.2 --layers 36 --kv-heads 8 --hidden 4096 \\
        --tokens 2000 --steps 20 --critiques 4 --written 70

The second form estimates one judge and workload of your own. Assumptions are the constants below
and the defaults of the classes; docs/cost.md has the formula in words. Where a service runs,
`capo doctor` measures what this only estimates.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

OUT = Path("build/bench/cost.json")

EFFICIENCY = 0.5  # share of a GPU's peak arithmetic and of its peak bandwidth that is reached
TENSOR_PARALLEL = 0.8  # of which this much is left where several GPUs share a judge
USABLE = 0.92  # share of a GPU's memory that vLLM uses (gpu_memory_utilization)
WORKSPACE = 3e9  # bytes of each GPU for activations
BYTES = 2  # of a weight and of a number in the KV cache: bfloat16
HEAD = 128  # size of an attention head

INSTRUCTIONS = 340  # tokens of the built-in template
TAGS = 28  # tokens of the tags of a step (SmolLM2's tokenizer)
WRITTEN = {"verdict": 6, "brief": 70, "full": 350}  # tokens of a critique


@dataclass(frozen=True, slots=True)
class Gpu:
    """Peak values of a GPU's data sheet: bfloat16 FLOP/s without sparsity, bytes/s, bytes."""

    name: str
    flops: float
    bandwidth: float
    memory: float
    sequences: int  # max_num_seqs that vLLM 0.32 chooses for it


@dataclass(frozen=True, slots=True)
class Judge:
    """The dimensions of a dense judge, of its model card and `config.json`."""

    name: str
    parameters: float
    layers: int
    kv_heads: int
    hidden: int

    @property
    def weights(self) -> float:
        return BYTES * self.parameters

    @property
    def cache_per_token(self) -> float:
        return BYTES * 2 * self.layers * self.kv_heads * HEAD

    def gpus(self, gpu: Gpu) -> int:
        """GPUs of a replica: the smallest power of two whose cache is a fifth of the weights."""
        count = 1
        while self.cache(gpu, count) < self.weights / 5:
            count *= 2
        return count

    def cache(self, gpu: Gpu, gpus: int) -> float:
        """Bytes that are left for the KV cache."""
        return gpus * (USABLE * gpu.memory - WORKSPACE) - self.weights


@dataclass(frozen=True, slots=True)
class Workload:
    """Rollouts: their tokens and steps, and what is asked about them."""

    tokens: int
    steps: int
    critiques: int = 4
    written: int = WRITTEN["brief"]
    question: int = 100
    group: int = 16  # rollouts per question, which share instructions and question

    @property
    def context(self) -> int:
        """Tokens of the judge's prompt."""
        return INSTRUCTIONS + self.question + self.read_alone

    @property
    def read_alone(self) -> int:
        """Tokens of a rollout that no other rollout shares."""
        return self.tokens + TAGS * self.steps

    @property
    def read(self) -> float:
        """Tokens read for a rollout; its critiques share them."""
        return self.read_alone + (INSTRUCTIONS + self.question) / self.group


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of one rollout: seconds of one replica, reading and writing; and GPU-seconds of both."""

    gpus: int
    sequences: int
    reading: float
    writing: float

    @property
    def gpu_seconds(self) -> float:
        return self.gpus * (self.reading + self.writing)


def estimate(gpu: Gpu, judge: Judge, work: Workload) -> Estimate:
    """Estimate a rollout of a saturated replica, without early stopping or cached results."""
    gpus = judge.gpus(gpu)
    share = EFFICIENCY * (TENSOR_PARALLEL if gpus > 1 else 1) * gpus
    attention = 2 * work.read * work.context * judge.layers * judge.hidden  # causal: half of 4
    reading = (2 * judge.parameters * work.read + attention) / (share * gpu.flops)

    in_flight = work.context + work.critiques * work.written
    fitting = judge.cache(gpu, gpus) / judge.cache_per_token / in_flight * work.critiques
    sequences = max(1, min(gpu.sequences, math.floor(fitting)))
    moved = judge.weights + sequences * (work.context + work.written / 2) * judge.cache_per_token
    writing = work.critiques * work.written / sequences * moved / (share * gpu.bandwidth)
    return Estimate(gpus, sequences, reading, writing)


GPUS = (
    Gpu("A100 80 GB", 312e12, 2.04e12, 80e9, 256),
    Gpu("H100 80 GB", 989e12, 3.35e12, 80e9, 1024),
)
JUDGES = (  # Qwen2.5-Instruct
    Judge("7B", 7.6e9, 28, 4, 3584),
    Judge("14B", 14.7e9, 48, 8, 5120),
    Judge("32B", 32.5e9, 64, 8, 5120),
    Judge("72B", 72.7e9, 80, 8, 8192),
)
LENGTHS = (1000, 4000, 16000)
TOKENS_PER_STEP = 100


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
        print("Estimates, not measurements: GPU-seconds per 1,000 rollouts.\n")
        print("\n".join(table(gpu) for gpu in GPUS))
        OUT.parent.mkdir(parents=True, exist_ok=True)
        OUT.write_text(json.dumps({"measured": False, "rows": rows()}, indent=2) + "\n")
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


if __name__ == "__main__":
    main()
