"""Judge tokens that early stopping saves where the judge thinks, and what waves cost in latency.

    .venv/bin/python bench/early_stop_thinking.py --judge testbed-thinking --rollouts 20

The full vote is sampled with vLLM; tokens and decode steps of early stopping are computed from it,
with all critiques that run sampling one token a step, because times on a busy machine say little.
`--check` also samples with early stopping, and compares the tokens. Writes
build/bench/early_stop_thinking.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from early import lockstep
from engines import OUT
from rich.console import Console
from rich.table import Table

import capo_wire as wire
from capo_service.core.voting import Method
from capo_service.engine.base import UNLIMITED
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
AT_ONCE = 8  # rollouts that are judged concurrently

Judged = tuple[Prepared, list[Ballot]]


@dataclass(frozen=True, slots=True)
class Row:
    """All rollouts with one budget, k, method, and way to start critiques.

    Attributes:
        thought: mean tokens of a thought.
        truncated: share of the thoughts that reached their budget.
        kept: tokens of early stopping, as a share of those of the full vote, computed.
        steps: decode steps until a vote is decided, as a multiple of the full vote's, computed.
        measured: `kept` as sampled with early stopping; None: not sampled.
        same: share of the sampled rollouts whose penalties equal those of the full vote.
    """

    budget: int
    k: int
    method: Method
    mode: str
    thought: float
    truncated: float
    kept: float
    steps: float
    measured: float | None = None
    same: float | None = None


class Bench:
    """One judge in vLLM in this process; call `start` first and `close` at the end.

    Args:
        judge: as `capo serve` takes it.
    """

    def __init__(self, judge: str) -> None:
        self._settings = Settings(model=judge)
        self._engine = VllmEngine(judge)
        self._runs = 0

    async def start(self) -> None:
        limits = await self._engine.start()
        prompter = JudgePrompter(
            self._engine.encode,
            limits.context_length,
            judge_profile(self._settings),
            limits.constraint,
            b"bench",
            self._settings.prefill,
        )
        self._preparer = Preparer(prompter, {}, CritiquePolicy(style="verdict"))
        self._top_logprobs = min(limits.top_logprobs, 1)

    async def close(self) -> None:
        await self._engine.close()

    async def judge(
        self, rollouts: Sequence[wire.Rollout], voting: wire.Voting, slots: int = UNLIMITED
    ) -> list[Judged]:
        """The critiques of each rollout, those that were ended early included."""
        sampler = CritiqueSampler(JudgeCritic(self._engine, slots))
        options = wire.CreditOptions(reward=wire.Reward(scheme="process_only"), voting=voting)
        turn = asyncio.Semaphore(AT_ONCE)

        async def judged(rollout: wire.Rollout) -> Judged:
            prepared = self._preparer.prepare(rollout, options)
            async with turn:
                return prepared, await sampler.sample(prepared, voting)

        return await asyncio.gather(*map(judged, rollouts))

    async def likeliest(self, rollouts: Sequence[wire.Rollout]) -> list[tuple[Ballot, float]]:
        """The greedy verdict on each rollout, and the probability that the judge gives it."""
        critic = JudgeCritic(self._engine, UNLIMITED)
        options = wire.CreditOptions(
            reward=wire.Reward(scheme="process_only"), voting=wire.Voting(method="greedy")
        )
        turn = asyncio.Semaphore(AT_ONCE)

        async def judged(number: int, rollout: wire.Rollout) -> tuple[Ballot, float]:
            prepared = self._preparer.prepare(rollout, options)
            assert prepared.task is not None
            sampling = replace(prepared.task.sampling, top_logprobs=self._top_logprobs)
            task = replace(prepared.task, sampling=sampling)
            async with turn:
                name = f"likeliest-{number}"
                ballot = await critic.critique(name, replace(prepared, task=task), 0)
            completion = ballot.completion
            tokens = zip(completion.token_ids, completion.logprobs, strict=True)
            return ballot, math.exp(sum(chances[token] for token, chances in tokens))

        return await asyncio.gather(*(judged(*each) for each in enumerate(rollouts)))


async def measure(
    judge: str,
    rollouts: Sequence[wire.Rollout],
    budgets: Sequence[int] = (64, 160),
    ks: Sequence[int] = (4, 8),
    check: bool = False,
    report: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Measure one judge.

    Args:
        judge: as `capo serve` takes it.
        rollouts: what it judges.
        budgets: thinking budgets in tokens.
        ks: numbers of critiques; the first of the largest full vote stand for the others.
        check: whether to sample with early stopping too.
        report: called with each row as it is found.
    """
    bench, rows = Bench(judge), []
    await bench.start()
    try:
        for budget in budgets:
            case: dict[str, Any] = {"seed": 1, "thinking_tokens": budget}
            full = await bench.judge(rollouts, wire.Voting(n=max(ks), early_stop=False, **case))
            for k in ks:
                for method in METHODS:
                    for mode, slots in MODES.items():
                        first = [(prepared, ballots[:k]) for prepared, ballots in full]
                        found = None
                        if check:
                            voting = wire.Voting(n=k, method=method, **case)
                            found = await bench.judge(rollouts, voting, slots)
                        row = _row(budget, k, method, mode, first, found)
                        report(row)
                        rows.append(row)
        return rows
    finally:
        await bench.close()


def _row(
    budget: int,
    k: int,
    method: Method,
    mode: str,
    full: Sequence[Judged],
    found: Sequence[Judged] | None,
) -> Row:
    thoughts = [ballot.completion for _, ballots in full for ballot in ballots]
    tokens = steps = longest = 0
    for prepared, ballots in full:
        recorded = [(b.verdict.wrong, b.completion.completion_tokens) for b in ballots]
        spent, taken = lockstep(method, len(prepared.spans), recorded, mode == "waves")
        tokens += spent
        steps += taken
        longest += max(length for _, length in recorded)
    row = Row(
        budget=budget,
        k=k,
        method=method,
        mode=mode,
        thought=sum(each.thinking_tokens for each in thoughts) / len(thoughts),
        truncated=sum(each.thinking_truncated for each in thoughts) / len(thoughts),
        kept=tokens / _tokens(full),
        steps=steps / longest,
        measured=_tokens(found) / _tokens(full) if found else None,
        same=_same(found, full, method) if found else None,
    )
    return row


def _tokens(found: Sequence[Judged]) -> int:
    return sum(ballot.completion.completion_tokens for _, ballots in found for ballot in ballots)


def _same(found: Sequence[Judged], full: Sequence[Judged], method: Method) -> float:
    def penalties(judged: Judged) -> list[float]:
        prepared, ballots = judged
        return prepared.count_votes([ballot.verdict for ballot in ballots]).penalties(method)

    same = [penalties(a) == penalties(b) for a, b in zip(found, full, strict=True)]
    return sum(same) / len(same)


def early_stop(
    judge: str = "embedded",
    rollouts: int = 20,
    file: Path | None = None,
    budgets: Sequence[int] = (64, 160),
    ks: Sequence[int] = (4, 8),
    check: bool = False,
) -> dict[str, Any]:
    """What `measure` finds on solutions of a file as for `capo eval`, else on the probes."""
    canaries = load_canaries(file, judge)
    given = [canaries[i % len(canaries)].rollout() for i in range(rollouts)]
    rows = asyncio.run(measure(judge, given, budgets, ks, check, report=print))
    return {"judge": judge, "rollouts": rollouts, "rows": [asdict(row) for row in rows]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judge", default="embedded")
    parser.add_argument("--file", type=Path, help="lines with question, steps and wrong_steps")
    parser.add_argument("--rollouts", type=int, default=20)
    parser.add_argument("--budgets", type=int, nargs="+", default=[64, 160])
    parser.add_argument("--k", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    found = early_stop(given.judge, given.rollouts, given.file, given.budgets, given.k, given.check)
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / "early_stop_thinking.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    columns = list(found["rows"][0])
    table = Table(*columns, title=f"{given.judge}, {given.rollouts} rollouts")
    for row in found["rows"]:
        values = (row[name] for name in columns)
        table.add_row(*(f"{each:.2f}" if isinstance(each, float) else str(each) for each in values))
    Console(width=120).print(table)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
