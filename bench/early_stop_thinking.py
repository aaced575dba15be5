"""Judge tokens that early stopping saves where the judge thinks, and what it costs in latency.

    .venv/bin/python bench/early_stop_thinking.py --judge embedded --budgets 64 --rollouts 20

Each rollout gets the same seeded critiques in three ways: the full vote (`full`); with early
stopping while the engine has free slots (`at_once`: all critiques start, a decided vote ends those
that run); and with early stopping on a busy engine (`waves`). Writes
build/bench/early_stop_thinking.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import count, product
from pathlib import Path
from statistics import median
from typing import Any

from engines import OUT
from rich.console import Console
from rich.table import Table

import capo_wire as wire
from capo_service.core.voting import Method
from capo_service.engine.base import FINISHED_EARLY, UNLIMITED
from capo_service.engine.vllm import VllmEngine
from capo_service.pipeline.canary import load_canaries
from capo_service.pipeline.critics import Ballot, JudgeCritic
from capo_service.pipeline.critique_sampler import CritiqueSampler
from capo_service.pipeline.judge_profile import judge_profile
from capo_service.pipeline.judge_prompt import JudgePrompter
from capo_service.pipeline.prepare import CritiquePolicy, Preparer
from capo_service.pipeline.prepared import Prepared
from capo_service.settings import Settings

METHODS: tuple[Method, ...] = ("majority", "intersection")
# Slots that the sampler takes the engine to have: with free ones all critiques start at once.
MODES = {"at_once": UNLIMITED, "waves": 0}
AT_ONCE = 4  # rollouts that are judged concurrently


@dataclass(frozen=True, slots=True)
class Row:
    """All rollouts with one budget, k, method and mode.

    Attributes:
        tokens: completion tokens, those of thoughts that were ended early included.
        kept: `tokens` as a share of those of the full vote.
        seconds: median time of a rollout.
        slower: `seconds` as a multiple of those of the full vote.
        same: share of rollouts whose penalties equal those of the full vote.
        truncated: share of the completed thoughts that reached their budget.
    """

    budget: int
    k: int
    method: Method
    mode: str
    tokens: int
    thinking_tokens: int
    critiques: float
    kept: float
    seconds: float
    slower: float
    same: float
    truncated: float


async def measure(
    judge: str,
    rollouts: Sequence[wire.Rollout],
    budgets: Sequence[int] = (64, 160),
    ks: Sequence[int] = (4, 8),
    methods: Sequence[Method] = METHODS,
    report: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Measure one judge with vLLM in this process.

    Args:
        judge: as `capo serve` takes it.
        rollouts: what it judges, `AT_ONCE` concurrently.
        budgets: thinking budgets in tokens.
        ks: numbers of critiques.
        methods: voting methods.
        report: called with each row as it is found.
    """
    engine = VllmEngine(judge)
    limits = await engine.start()
    try:
        settings = Settings(model=judge)
        prompter = JudgePrompter(
            engine.encode,
            limits.context_length,
            judge_profile(settings),
            limits.constraint,
            b"bench",
            settings.prefill,
        )
        preparer = Preparer(prompter, {}, CritiquePolicy(style="verdict"))
        most = wire.Voting(n=max(ks), thinking_tokens=max(budgets), early_stop=False)
        await _judge(engine, preparer, rollouts[:AT_ONCE], most, UNLIMITED)  # warms up
        rows: list[Row] = []
        for budget, k in product(budgets, ks):
            async for row in _compare(engine, preparer, rollouts, budget, k, methods):
                report(row)
                rows.append(row)
        return rows
    finally:
        await engine.close()


class _Run(JudgeCritic):
    """The judge in one run of the rollouts; no two runs have a critique of the same name."""

    _numbers = count()

    def __init__(self, engine: VllmEngine, slots: int) -> None:
        super().__init__(engine, slots)
        self._name = f"run-{next(self._numbers)}"
        self._abort, self.abort = self.abort, self._abort_named

    async def critique(self, request: str, prepared: Prepared, position: int) -> Ballot:
        return await super().critique(f"{self._name}-{request}", prepared, position)

    async def _abort_named(self, request: str) -> None:
        await self._abort(f"{self._name}-{request}")


@dataclass(frozen=True, slots=True)
class _Judged:
    """A rollout: its critiques, those that were ended early included, and its time in seconds."""

    prepared: Prepared
    ballots: list[Ballot]
    seconds: float

    def penalties(self, method: Method) -> list[float]:
        votes = self.prepared.count_votes([ballot.verdict for ballot in self.ballots])
        return votes.penalties(method)


async def _compare(
    engine: VllmEngine,
    preparer: Preparer,
    rollouts: Sequence[wire.Rollout],
    budget: int,
    k: int,
    methods: Sequence[Method],
) -> AsyncGenerator[Row, None]:
    """The full vote, whose critiques are the same for all methods, and each way to stop early."""
    case = {"n": k, "seed": 1, "thinking_tokens": budget}
    full = await _judge(
        engine, preparer, rollouts, wire.Voting(early_stop=False, **case), UNLIMITED
    )
    for method in methods:
        yield _row(budget, k, method, "full", full, full)
        for mode, slots in MODES.items():
            voting = wire.Voting(method=method, **case)
            found = await _judge(engine, preparer, rollouts, voting, slots)
            yield _row(budget, k, method, mode, found, full)


async def _judge(
    engine: VllmEngine,
    preparer: Preparer,
    rollouts: Sequence[wire.Rollout],
    voting: wire.Voting,
    slots: int,
) -> list[_Judged]:
    sampler = CritiqueSampler(_Run(engine, slots))
    options = wire.CreditOptions(reward=wire.Reward(scheme="process_only"), voting=voting)
    turn = asyncio.Semaphore(AT_ONCE)

    async def judged(rollout: wire.Rollout) -> _Judged:
        prepared = preparer.prepare(rollout, options)
        async with turn:
            began = time.perf_counter()
            ballots = await sampler.sample(prepared, voting)
            return _Judged(prepared, ballots, time.perf_counter() - began)

    return await asyncio.gather(*map(judged, rollouts))


def _row(
    budget: int,
    k: int,
    method: Method,
    mode: str,
    found: Sequence[_Judged],
    full: Sequence[_Judged],
) -> Row:
    completions = [ballot.completion for judged in found for ballot in judged.ballots]
    finished = [each for each in completions if each.finish_reason != FINISHED_EARLY]
    seconds, slowest = (median(each.seconds for each in all_) for all_ in (found, full))
    same = [a.penalties(method) == b.penalties(method) for a, b in zip(found, full, strict=True)]
    tokens = _tokens(found)
    return Row(
        budget=budget,
        k=k,
        method=method,
        mode=mode,
        tokens=tokens,
        thinking_tokens=sum(each.thinking_tokens for each in completions),
        critiques=len(finished) / len(found),
        kept=tokens / _tokens(full),
        seconds=seconds,
        slower=seconds / slowest,
        same=sum(same) / len(same),
        truncated=sum(each.thinking_truncated for each in finished) / len(finished),
    )


def _tokens(found: Sequence[_Judged]) -> int:
    return sum(ballot.completion.completion_tokens for each in found for ballot in each.ballots)


def labelled(path: Path | None, judge: str, rollouts: int) -> list[wire.Rollout]:
    """Solutions of a file as for `capo eval`, or the known-answer probes, again and again."""
    canaries = load_canaries(path, judge)
    return [canaries[i % len(canaries)].rollout() for i in range(rollouts)]


def early_stop(
    judge: str = "embedded",
    rollouts: int = 20,
    file: Path | None = None,
    budgets: Sequence[int] = (64, 160),
    ks: Sequence[int] = (4, 8),
) -> dict[str, Any]:
    """What `measure` finds on so many labelled solutions, as JSON."""
    rows = asyncio.run(measure(judge, labelled(file, judge, rollouts), budgets, ks, report=print))
    return {"judge": judge, "rollouts": rollouts, "rows": [asdict(row) for row in rows]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judge", default="embedded")
    parser.add_argument("--file", type=Path, help="lines with question, steps and wrong_steps")
    parser.add_argument("--rollouts", type=int, default=20)
    parser.add_argument("--budgets", type=int, nargs="+", default=[64, 160])
    parser.add_argument("--k", type=int, nargs="+", default=[4, 8])
    options = parser.parse_args()
    found = early_stop(options.judge, options.rollouts, options.file, options.budgets, options.k)
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / "early_stop_thinking.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    shown = (
        "budget",
        "k",
        "method",
        "mode",
        "critiques",
        "tokens",
        "kept",
        "seconds",
        "slower",
        "same",
        "truncated",
    )
    table = Table(*shown, title=f"{options.judge}, {options.rollouts} rollouts")
    for row in found["rows"]:
        values = (row[name] for name in shown)
        table.add_row(*(f"{each:.2f}" if isinstance(each, float) else str(each) for each in values))
    Console(width=120).print(table)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
