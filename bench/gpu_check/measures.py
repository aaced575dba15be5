"""Measurements: the bare engine against the service, styles, k, thinking budgets, latency."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from statistics import median, quantiles
from typing import Any

from checks import STYLES, accuracy
from context import DEADLINE, FULL_MINUTES, Context, Found
from made_rollouts import Made, groups
from processes import Ask

from capo_client import AsyncCreditClient

ROUNDS = 3
K = (1, 2, 4, 8, 16)
BUDGETS = (0, 256, 1024)
CALLERS = 32
FULL_VOTE = {"n": 4, "early_stop": False}


def overhead_rollouts(
    run: str, turn: int, count: int, length: str
) -> tuple[list[Made], dict[str, Any]]:
    """The same for the service and the bare engine."""
    rollouts = groups(f"{run} overhead {turn}", count, 8, length)
    return rollouts, {**FULL_VOTE, "seed": turn}


def throughput(context: Context) -> Found:
    """The service, on the rollouts that the bare engine gets too (part `bare_engine`)."""
    found = Found()
    rounds, length = [], context.fitting()

    def run(count: int) -> float:
        return context.credit(context.groups(f"first {count}", count, 8), FULL_VOTE)[0]

    count = context.grow(found, 20, 512, run)
    for turn in range(1, ROUNDS + 1):
        rollouts, voting = overhead_rollouts(context.run, turn, count, length)
        seconds, batch = context.credit(rollouts, voting)
        usage = batch.usage
        rounds.append(
            {
                "rollouts_per_s": count / seconds,
                "tokens_per_s": usage.completion_tokens / seconds,
                "prompt_tokens_per_s": usage.prompt_tokens / seconds,
                "cached": usage.cached_tokens / usage.prompt_tokens,
            }
        )
    found.numbers = {"rollouts": count, "length": length, "run": context.run, **_medians(rounds)}
    return found


def bare_engine(ask: Ask, ready: dict[str, Any], served: dict[str, Any]) -> Found:
    """vLLM's `LLM.generate` with its own defaults, on the rollouts of `throughput`.

    Args:
        ask: the bare engine.
        ready: its limits, and the seconds of its start.
        served: what `throughput` found.
    """
    found, rounds, count = Found(), [], served["rollouts"]
    for turn in range(ROUNDS + 1):
        rollouts, voting = overhead_rollouts(served["run"], turn, count, served["length"])
        got = ask({"rollouts": [each.sent() for each in rollouts], "voting": voting})
        if turn:
            rounds.append(
                {
                    "rollouts_per_s": count / got["seconds"],
                    "tokens_per_s": got["tokens"] / got["seconds"],
                    "prompt_tokens_per_s": got["prompt_tokens"] / got["seconds"],
                }
            )
    found.numbers = {"rollouts": count, "limits": ready, **_medians(rounds)}
    found.numbers["overhead_ratio"] = served["tokens_per_s"] / found.numbers["tokens_per_s"]
    return found


def _medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: median(each[name] for each in rounds) for name in rounds[0]}


def styles(context: Context) -> Found:
    """Throughput of each style, on typical and on long rollouts, and the judge's accuracy."""
    found = Found()
    lengths = dict.fromkeys([context.fitting(), context.fitting("long")])
    for length in lengths:
        rows = {
            f"{length}, {style}": {**FULL_VOTE, "critique_style": style, "seed": 1}
            for style in STYLES
        }
        _measure(context, found, rows, 20, length)
    if "long" not in lengths:
        found.notes.append("long rollouts were left out: they exceed the judge's context")
    return found


def votes(context: Context) -> Found:
    """Throughput by k, without and with early stopping."""
    found, rows = Found(), {}
    for k in K:
        rows[f"{k}, early stopping"] = {"n": k, "early_stop": True, "seed": 1}
        rows[str(k)] = {"n": k, "early_stop": False, "seed": 1}
    _measure(context, found, rows, 15)
    return found


def budgets(context: Context) -> Found:
    """Throughput by thinking budget, before verdicts without an analysis."""
    found, rows = Found(), {}
    for budget in BUDGETS:
        if budget > 256 and not context.holds(2000 + budget):
            found.notes.append(f"a budget of {budget} was left out: it exceeds the judge's context")
            continue
        thought = {"critique_style": "verdict", "thinking_tokens": budget, "seed": 1}
        rows[str(budget)] = {**FULL_VOTE, **thought}
    _measure(context, found, rows, 25)
    return found


def _measure(
    context: Context,
    found: Found,
    rows: dict[str, dict[str, Any]],
    seconds: float,
    length: str = "typical",
) -> None:
    """Rates of several votings, with as many rollouts as the last, the slowest, has time for."""

    def run(name: str, count: int) -> float:
        rollouts = context.groups(f"{name} {count}", count, 8, length)
        taken, batch = context.credit(rollouts, rows[name])
        usage = batch.usage
        measured[name] = {
            "rollouts": count,
            "seconds": taken,
            "rollouts_per_s": count / taken,
            "tokens_per_s": usage.completion_tokens / taken,
            "prompt_tokens": usage.prompt_tokens / usage.critiques_run,
            "completion_tokens_per_rollout": usage.completion_tokens / count,
            "cached": usage.cached_tokens / usage.prompt_tokens,
            **accuracy(rollouts, batch.credited),
        }
        return taken

    measured: dict[str, Any] = {}
    *others, slowest = rows
    count = context.grow(found, seconds, 512, partial(run, slowest))
    for name in others:
        run(name, count)
    found.numbers |= {name: measured[name] for name in rows}


def latency(context: Context) -> Found:
    """How long a caller waits for one rollout, alone and beside others."""
    found, callers = Found(), 1
    for _ in range(2):
        seconds = 20 * context.minutes / FULL_MINUTES
        rollouts = context.groups(f"latency {callers}", 64 * callers, 4)
        times, taken = asyncio.run(_callers(context.url, rollouts, callers, seconds))
        found.numbers["alone" if callers == 1 else f"{callers} callers"] = {
            "rollouts": len(times),
            "p50_ms": 1000 * median(times),
            "p99_ms": 1000 * _percentile(times, 99),
            "rollouts_per_s": len(times) / taken,
        }
        # A slow machine would need minutes for one rollout of each of many callers.
        callers = CALLERS if median(times) < 1 else 4
    return found


def _percentile(times: Sequence[float], percent: int) -> float:
    """The largest where there are too few to tell."""
    if len(times) < 2:
        return max(times)
    return quantiles(times, n=100, method="inclusive")[percent - 1]


async def _callers(
    url: str, rollouts: Sequence[Made], count: int, seconds: float
) -> tuple[list[float], float]:
    """Latencies, and the seconds of all; each caller begins no rollout after `seconds`."""
    waiting, times = list(rollouts), []
    async with AsyncCreditClient(url, batch_size=1, concurrency=count) as client:

        async def call() -> None:
            while waiting:
                one, sent = waiting.pop(), time.perf_counter()
                batch = await client.credit([one.sent()], deadline=DEADLINE, voting={"n": 4})
                batch.raise_for_errors()
                times.append(time.perf_counter() - sent)
                if time.perf_counter() - began > seconds:
                    break

        began = time.perf_counter()
        await asyncio.gather(*(call() for _ in range(count)))
        return times, time.perf_counter() - began
