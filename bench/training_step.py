"""A training step's judging: how many GPUs keep the trainer's wait for credit under 5% of the step.

Used by bench/cost.py. The arithmetic of bench/estimates.py gives the service times; a replica whose
rollouts share it runs each at the speed that their number leaves it. `simulate` checks the
arithmetic with bench/fleet_sim.py: rollouts of different lengths, the client's real balancer,
questions that a replica has cached, and the last rollouts of the step.
"""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass, replace

import estimates
from estimates import Estimate, Gpu, Judge, Workload
from fleet_sim import Fleet, Request

QUESTIONS, GROUP, TOKENS, STEPS = 512, 16, 2000, 20
ROLLOUTS = QUESTIONS * GROUP
QUESTION = 100  # tokens of a question

# The trainer: GRPO with Qwen3-32B on H100s, as published for NeMo RL 0.7.
TRAINER_GPUS, TRAINER_RATE = 64, 665  # tokens of sampled sequences per second and GPU, whole step
SAMPLING = 0.7  # share of the step that is sampling (RollPacker, arXiv:2509.21009)
ALLOWED = 0.05  # of the step that the trainer may wait for credit
STEP = ROLLOUTS * (TOKENS + QUESTION) / (TRAINER_GPUS * TRAINER_RATE)
SLICE = 32  # replicas that are simulated, of more, with their share of the rollouts


@dataclass(frozen=True, slots=True)
class Style:
    """What is asked of the judge: `critiques` critiques of `written` tokens."""

    name: str
    critiques: int
    written: int


STYLES = (
    Style("verdict, k = 4", 4, estimates.WRITTEN["verdict"]),
    Style("verdict, k = 16; exact votes, 16 reads", 16, estimates.WRITTEN["verdict"]),
    Style("brief, k = 4", 4, estimates.WRITTEN["brief"]),
    Style("brief, k = 16", 16, estimates.WRITTEN["brief"]),
    Style("full, k = 4", 4, estimates.WRITTEN["full"]),
)
THINKING = Style("thinking 2,000, k = 4", 4, 2000 + estimates.WRITTEN["verdict"])


@dataclass(frozen=True, slots=True)
class Replica:
    """A judge on `gpus` GPUs with one style."""

    gpu: Gpu
    judge: Judge
    style: Style
    gpus: int

    @property
    def work(self) -> Workload:
        return Workload(TOKENS, STEPS, self.style.critiques, self.style.written, QUESTION, GROUP)

    @property
    def estimate(self) -> Estimate:
        return estimates.estimate(self.gpu, self.judge, self.work, self.gpus)

    @property
    def slots(self) -> int:
        """Rollouts at once."""
        return max(1, self.estimate.sequences // self.style.critiques)

    def seconds(self, rollouts: int) -> float:
        """Of one rollout, while so many share the replica."""
        found, work = self.estimate, self.work
        share = self.gpu.efficiency * (estimates.TENSOR_PARALLEL if self.gpus > 1 else 1)
        cached = rollouts * work.critiques * (work.context + work.written / 2)
        moved = self.judge.weights + cached * self.judge.cache_per_token
        token = moved / (share * self.gpus * self.gpu.bandwidth)
        return rollouts * found.reading + work.written * token

    def rates(self) -> list[tuple[int, float]]:
        """(rollouts in work, rollouts/s), for bench/fleet_sim.py."""
        counts = {1, self.slots} | {2**i for i in range(1, int(math.log2(self.slots)) + 1)}
        return [(count, count / self.seconds(count)) for count in sorted(counts)]


@dataclass(frozen=True, slots=True)
class Need:
    """GPUs that keep the wait under `ALLOWED`, and the simulated wait as a share of the step.

    Attributes:
        replica: on as few GPUs as answer one rollout alone in time.
        at_end: GPUs by arithmetic, if all rollouts are sent when sampling is over.
        streamed: the same, if each is sent when it is finished.
        simulated: the fewest GPUs with which the simulation of `streamed` keeps the wait.
    """

    replica: Replica
    at_end: int
    wait_at_end: float
    streamed: int
    wait_streamed: float
    simulated: int

    def as_json(self) -> dict[str, object]:
        found = asdict(self)
        return found | {"replica": self.replica.gpus, "alone_s": self.replica.seconds(1)}


def arithmetic(replica: Replica) -> tuple[int, int]:
    """Replicas: all rollouts at the end, and streamed.

    A replica that is always full credits a rollout in `busy` seconds, and the last one takes as
    long as a rollout alone.
    """
    busy = replica.seconds(replica.slots) / replica.slots
    left = ALLOWED * STEP - replica.seconds(1)
    return (
        math.ceil(ROLLOUTS * busy / left),
        math.ceil(ROLLOUTS * busy / (SAMPLING * STEP + left)),
    )


def chosen(gpu: Gpu, judge: Judge, style: Style) -> Replica:
    """On the fewest GPUs that hold the judge and answer one rollout alone in time."""
    replica = Replica(gpu, judge, style, judge.gpus(gpu))
    while replica.seconds(1) > ALLOWED * STEP:
        replica = replace(replica, gpus=2 * replica.gpus)
    return replica


def need(gpu: Gpu, judge: Judge, style: Style) -> Need:
    replica = chosen(gpu, judge, style)
    at_end, streamed = arithmetic(replica)
    wait = simulate(replica, streamed, streamed=True)
    enough = streamed
    while simulate(replica, enough, streamed=True) > ALLOWED:
        enough = math.ceil(1.1 * enough)
    return Need(
        replica,
        at_end * replica.gpus,
        simulate(replica, at_end, streamed=False),
        streamed * replica.gpus,
        wait,
        enough * replica.gpus,
    )


def simulate(replica: Replica, count: int, streamed: bool, seed: int = 1) -> float:
    """The trainer's wait for the last credit, as a share of the step."""
    questions = QUESTIONS if count <= SLICE else round(QUESTIONS * SLICE / count)
    fleet = Fleet(min(count, SLICE), replica.rates(), "balanced", seed)
    # Sizes are right for rollouts that have a replica alone, as the last ones do; on a full replica
    # reading is a larger part, but the mean of all sizes is 1.
    reading = replica.estimate.reading / replica.seconds(1)
    # The first rollout of a question that a replica sees also reads the question.
    fleet.unknown = reading * QUESTION / replica.work.read
    sampled = finished(random.Random(seed), questions)
    for when, question, tokens in sampled:
        size = 1 + reading * (tokens / TOKENS - 1)
        at = when if streamed else SAMPLING * STEP
        request = Request(f"question {question}", at, [size], tokens=TOKENS)
        fleet.at(at, "send", request)
    fleet.work_off()
    assert len(fleet.ends) == len(sampled), "a rollout was lost"
    return (fleet.now - SAMPLING * STEP) / STEP


def finished(rng: random.Random, questions: int) -> list[tuple[float, int, float]]:
    """When each rollout's sampling ends: (seconds, question, tokens).

    All rollouts are sampled at once at one speed; their lengths are gamma-distributed, and the
    longest one ends the sampling.
    """
    lengths = [rng.gammavariate(4, TOKENS / 4) for _ in range(questions * GROUP)]
    speed = max(lengths) / (SAMPLING * STEP)
    return [(tokens / speed, i // GROUP, tokens) for i, tokens in enumerate(lengths)]


def cases() -> list[tuple[Judge, Style]]:
    judges = [judge for judge in estimates.JUDGES if judge.name != "14B"]
    found = [(judge, style) for judge in judges for style in STYLES]
    return [*found, *((judge, THINKING) for judge in judges if judge.name == "32B")]
