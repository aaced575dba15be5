"""A fleet of up to 64 replicas, simulated from measured service times and the real balancer.

    make bench-fleet_sim     # a table, a plot, and build/bench/fleet_sim.json

A replica with n rollouts in work ends them at the rate that bench/service.py measured with n
callers, shared equally; more than it was measured with wait. Groups of 16 rollouts of a question
arrive at random (Poisson) and are sent in fours by `capo_client.balance.Balancer`, at 80% of what
the fleet can do. Half-way through, one replica is lost: what it had is sent again elsewhere.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table

from capo_client.balance import Balancer, Replica

OUT = Path("build/bench")
FLEETS = (1, 2, 4, 8, 16, 32, 64)
LOAD, GROUP, BUNDLE, GROUPS_EACH = 0.8, 16, 4, 60
TOKENS = 100


@dataclass(eq=False)
class Request:
    question: str
    sent: float
    sizes: list[float]  # 1: a mean rollout
    left: int = 0
    tokens: int = TOKENS  # of a rollout, as the balancer counts


@dataclass(eq=False)
class Server:
    """Processor sharing at a rate that depends on how many share it."""

    rates: list[tuple[int, float]]  # (rollouts in work, rollouts/s), as measured
    work: list[tuple[float, int, Request, float]] = field(default_factory=list)  # ends at, ...
    waiting: deque[tuple[float, Request, float]] = field(default_factory=deque)
    served: float = 0.0  # mean rollouts that each one in work has got so far
    at: float = 0.0
    busy: float = 0.0
    known: set[str] = field(default_factory=set)
    alive: bool = True
    version: int = 0

    def rate(self) -> float:
        count = len(self.work)
        if not count:
            return 0.0
        for (a, x), (b, y) in itertools.pairwise([(0, 0.0), *self.rates]):
            if count <= b:
                return x + (y - x) * (count - a) / (b - a)
        return self.rates[-1][1]

    def advance(self, now: float) -> None:
        if self.work:
            self.served += (now - self.at) * self.rate() / len(self.work)
            self.busy += (now - self.at) * self.rate() / self.rates[-1][1]
        self.at = now

    def next_end(self) -> float | None:
        if not self.work:
            return None
        return self.at + (self.work[0][0] - self.served) * len(self.work) / self.rate()


class Fleet:
    def __init__(self, count: int, rates: list[tuple[int, float]], policy: str, seed: int) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.balancer = Balancer([str(i) for i in range(count)], lambda: self.now)
        self.turns = itertools.cycle(self.balancer.replicas)
        self.policy = policy
        self.servers = {r.url: Server(rates) for r in self.balancer.replicas}
        self.slots = rates[-1][0]
        self.events: list[tuple[float, int, str, Any]] = []
        self.numbers = itertools.count()
        self.waits: list[tuple[float, float]] = []  # (when, seconds until begun)
        self.ends: list[float] = []
        self.unknown = 0.0  # size of reading a question that the replica has not cached
        self.hits = self.begun = self.again = 0

    def at(self, when: float, kind: str, what: Any) -> None:
        heapq.heappush(self.events, (when, next(self.numbers), kind, what))

    def run(self, groups: int, rate: float, lose: bool) -> None:
        when = 0.0
        for number in range(groups):
            when += self.rng.expovariate(rate / GROUP)
            self.at(when, "group", f"question {number}")
        if lose:
            self.at(when / 2, "lose", self.balancer.replicas[0])
        self.work_off()

    def work_off(self) -> None:
        """Run until nothing happens any more."""
        while self.events:
            self.now, _, kind, what = heapq.heappop(self.events)
            getattr(self, kind)(what)

    def group(self, question: str) -> None:
        for _ in range(GROUP // BUNDLE):
            sizes = [self.rng.gammavariate(4, 0.25) for _ in range(BUNDLE)]
            self.send(Request(question, self.now, sizes))

    def send(self, request: Request) -> None:
        tokens = request.tokens * len(request.sizes)
        while True:
            pick = self.balancer.pick(request.question, tokens)
            replica = pick if self.policy == "balanced" else next(self.turns)
            server = self.servers[replica.url]
            if server.alive:
                break
            self.balancer.failed(replica, 0.0)  # the connection is refused at once
        replica.outstanding += tokens
        request.left = len(request.sizes)
        server.advance(self.now)
        server.waiting.extend((self.now, request, size) for size in request.sizes)
        self.fill(replica, server)

    def fill(self, replica: Replica, server: Server) -> None:
        while server.waiting and len(server.work) < self.slots:
            came, request, size = server.waiting.popleft()
            self.begun += 1
            known = request.question in server.known
            self.hits += known
            size += 0.0 if known else self.unknown
            server.known.add(request.question)
            self.waits.append((came, self.now - came))
            heapq.heappush(server.work, (server.served + size, next(self.numbers), request, size))
        server.version += 1
        end = server.next_end()
        if end is not None:
            self.at(end, "end", (replica, server.version))

    def end(self, what: tuple[Replica, int]) -> None:
        replica, version = what
        server = self.servers[replica.url]
        if version != server.version or not server.alive:
            return
        server.advance(self.now)
        _, _, request, _ = heapq.heappop(server.work)
        request.left -= 1
        if not request.left:
            replica.outstanding -= request.tokens * len(request.sizes)
            self.balancer.answered(replica)
            self.ends.append(self.now - request.sent)
        self.fill(replica, server)

    def lose(self, replica: Replica) -> None:
        server = self.servers[replica.url]
        server.advance(self.now)
        server.alive = False
        lost = {id(r): r for _, r, _ in server.waiting}
        lost |= {id(r): r for _, _, r, _ in server.work}
        server.work, server.waiting = [], deque()
        replica.outstanding = 0
        self.balancer.failed(replica, 0.0)
        for request in lost.values():
            self.again += len(request.sizes)
            self.send(request)


def quantile(values: list[float], share: float) -> float:
    values = sorted(values)
    return values[min(int(share * len(values)), len(values) - 1)] if values else 0.0


def simulate(count: int, rates: list[tuple[int, float]], policy: str, lose: bool) -> dict[str, Any]:
    fleet = Fleet(count, rates, policy, seed=count)
    fleet.run(GROUPS_EACH * count, LOAD * count * rates[-1][1], lose)
    assert len(fleet.ends) == GROUPS_EACH * count * GROUP // BUNDLE, "a request was lost"
    waits = [wait for _, wait in fleet.waits]
    return {
        "utilisation": sum(s.busy for s in fleet.servers.values()) / (count * fleet.now),
        "p99_wait_s": quantile(waits, 0.99), "p50_request_s": quantile(fleet.ends, 0.5),
        "p99_request_s": quantile(fleet.ends, 0.99), "question_known": fleet.hits / fleet.begun,
        "sent_again": fleet.again, "rollouts": GROUPS_EACH * count * GROUP,
    }  # fmt: skip


def main() -> None:
    measured = OUT / "service.json"
    if not measured.exists():
        raise SystemExit(f"{measured} is not there; run make bench-service first")
    rows = json.loads(measured.read_text())["concurrency"]
    rates, best = [], 0.0
    for row in rows:  # a dip is noise: more callers are not slower
        best = max(best, row["rollouts_per_s"])
        rates.append((row["callers"], best))
    found: dict[str, Any] = {"measured_rates": rates, "load": LOAD, "fleets": {}}
    table = Table(
        "replicas", "policy", "utilisation", "p99 wait, s", "request, median s", "p99 s",
        "question known", title=f"At {LOAD:.0%} of what the fleet can do",
    )  # fmt: skip
    for count in FLEETS:
        cases = {"balanced": ("balanced", False), "round robin": ("turns", False)}
        if count > 1:
            cases["balanced, one lost"] = ("balanced", True)
        for name, (policy, lose) in cases.items():
            row = simulate(count, rates, policy, lose)
            found["fleets"].setdefault(str(count), {})[name] = row
            table.add_row(
                str(count), name, f"{row['utilisation']:.2f}", f"{row['p99_wait_s']:.1f}",
                f"{row['p50_request_s']:.1f}", f"{row['p99_request_s']:.1f}",
                f"{row['question_known']:.2f}",
            )  # fmt: skip
    (OUT / "fleet_sim.json").write_text(json.dumps(found, indent=2) + "\n")
    Console().print(table)
    draw(found)


def draw(found: dict[str, Any]) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name in ("balanced", "round robin", "balanced, one lost"):
        rows = [(int(c), fleet[name]) for c, fleet in found["fleets"].items() if name in fleet]
        counts = [count for count, _ in rows]
        left.plot(counts, [row["p99_request_s"] for _, row in rows], "o-", label=name)
        right.plot(counts, [row["question_known"] for _, row in rows], "o-", label=name)
    left.set(ylabel="a request of four, p99, s")
    right.set(ylabel="rollouts whose question the replica knows")
    for axes, top in ((left, None), (right, 1)):
        axes.set(xscale="log", xlabel="replicas", ylim=(0, top))
        axes.set_xticks(FLEETS, map(str, FLEETS))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    left.legend()
    figure.savefig(OUT / "fleet_sim.png", dpi=120)


if __name__ == "__main__":
    main()
