"""Arithmetic of docs/cost.md: what a judge costs, from its dimensions and a GPU's data sheet.

Nothing here is measured by this project. Each GPU's `efficiency` is chosen so that the formula
reproduces published figures of vLLM (`PUBLISHED`) within the factor that docs/cost.md states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

TENSOR_PARALLEL = 0.8  # share of the efficiency that is left where several GPUs share a judge
USABLE = 0.92  # share of a GPU's memory that vLLM uses (gpu_memory_utilization)
WORKSPACE = 3e9  # bytes of each GPU for activations
BYTES = 2  # of a weight and of a number in the KV cache: bfloat16
HEAD = 128  # size of an attention head

INSTRUCTIONS = 340  # tokens of the built-in template
STEP_HEAD = 7  # tokens of the head of a step (SmolLM2's tokenizer)
WRITTEN = {"verdict": 6, "brief": 70, "full": 350}  # tokens of a critique


@dataclass(frozen=True, slots=True)
class Gpu:
    """Peak values of a GPU's data sheet: bfloat16 FLOP/s without sparsity, bytes/s, bytes.

    Attributes:
        sequences: max_num_seqs that vLLM 0.32 chooses for it.
        efficiency: share of the peak arithmetic and of the peak bandwidth that is reached.
    """

    name: str
    flops: float
    bandwidth: float
    memory: float
    sequences: int
    efficiency: float


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
    instructions: int = INSTRUCTIONS
    step_head: int = STEP_HEAD

    @property
    def context(self) -> int:
        """Tokens of the judge's prompt."""
        return self.instructions + self.question + self.read_alone

    @property
    def read_alone(self) -> int:
        """Tokens of a rollout that no other rollout shares."""
        return self.tokens + self.step_head * self.steps

    @property
    def read(self) -> float:
        """Tokens read for a rollout; its critiques share them."""
        return self.read_alone + (self.instructions + self.question) / self.group


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


def estimate(gpu: Gpu, judge: Judge, work: Workload, gpus: int | None = None) -> Estimate:
    """Estimate a rollout of a saturated replica, without early stopping or cached results.

    Args:
        gpus: GPUs of a replica; None: the fewest that hold the judge.
    """
    gpus = gpus or judge.gpus(gpu)
    share = gpu.efficiency * (TENSOR_PARALLEL if gpus > 1 else 1) * gpus
    attention = 2 * work.read * work.context * judge.layers * judge.hidden  # causal: half of 4
    reading = (2 * judge.parameters * work.read + attention) / (share * gpu.flops)

    in_flight = work.context + work.critiques * work.written
    fitting = judge.cache(gpu, gpus) / judge.cache_per_token / in_flight * work.critiques
    sequences = max(1, min(gpu.sequences, math.floor(fitting)))
    moved = judge.weights + sequences * (work.context + work.written / 2) * judge.cache_per_token
    writing = work.critiques * work.written / sequences * moved / (share * gpu.bandwidth)
    return Estimate(gpus, sequences, reading, writing)


GPUS = (
    Gpu("A100 80 GB", 312e12, 2.04e12, 80e9, 256, 0.6),
    Gpu("H100 80 GB", 989e12, 3.35e12, 80e9, 1024, 0.4),
)
A100, H100 = GPUS
JUDGES = (  # Qwen2.5-Instruct
    Judge("7B", 7.6e9, 28, 4, 3584),
    Judge("14B", 14.7e9, 48, 8, 5120),
    Judge("32B", 32.5e9, 64, 8, 5120),
    Judge("72B", 72.7e9, 80, 8, 8192),
)


@dataclass(frozen=True, slots=True)
class Published:
    """Tokens/s that others measured with vLLM's defaults, every request with a prompt of its own.

    Attributes:
        rate: tokens read and written per second.
    """

    gpu: Gpu
    judge: Judge
    read: int
    written: int
    rate: int

    @property
    def estimated(self) -> float:
        work = Workload(
            self.read, 0, 1, self.written, question=0, group=1, instructions=0, step_head=0
        )
        found = estimate(self.gpu, self.judge, work, 1)
        return (self.read + self.written) / (found.reading + found.writing)


# GPUStack's performance lab, docs/performance-lab/qwen3-14b/{a100,h100}.md: vLLM 0.11, bfloat16.
_QWEN3_14B = Judge("Qwen3-14B", 14.8e9, 40, 8, 5120)
PUBLISHED = (
    Published(A100, _QWEN3_14B, 2000, 100, 5967),
    Published(A100, _QWEN3_14B, 4000, 200, 5153),
    Published(H100, _QWEN3_14B, 2000, 100, 10597),
    Published(H100, _QWEN3_14B, 4000, 200, 9218),
)
