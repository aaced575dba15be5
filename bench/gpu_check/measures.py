"""Measurements: the bare engine against the service, styles, k, thinking budgets, latency."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any

from checks import STYLES, accuracy
from context import DEADLINE, Context, Found
from made_rollouts import Made, groups
from processes import Ask

from capo_client import AsyncCreditClient

ROUNDS = 3
K = (1, 2, 4, 8, 16)
BUDGETS = (0, 256, 1024)
CALLERS = 32
FULL_VOTE = {"n": 4, "early_stop": False}


def pace(context: Context) -> Found:
    """How fast this machine is, by which the other parts choose their number of rollouts."""
    found = Found()
    voting = {**FULL_VOTE, "critique_style": "brief"}
    context.credit(context.groups("warm-up", 2, 2), voting)
    count = 8
    seconds, batch = context.credit(context.groups("pace", count, 4), voting)
    if seconds < 4:  # eight do not fill a fast engine
        count = 128
        seconds, batch = context.credit(context.groups("fast pace", count, 4), voting)
    usage = batch.usage
    context.pace = seconds / count
    found.numbers = {
        "seconds_per_rollout": context.pace,
        "prompt_tokens": usage.prompt_tokens / usage.critiques_run,
        "completion_tokens": usage.completion_tokens / usage.critiques_run,
    }
    return found


def overhead_rollouts(
    run: str, turn: int, count: int, length: str
) -> tuple[list[Made], dict[str, Any]]:
    """The same for the service and the bare engine."""
    rollouts = groups(f"{run} overhead {turn}", count, 8, length)
    return rollouts, {**FULL_VOTE, "critique_style": "brief", "seed": turn}


def throughput(context: Context) -> Found:
    """The service, on the rollouts that the bare engine gets too (part `bare_engine`)."""
    found = Found()
    count = context.count(found, 80 / (ROUNDS + 1), 1.0, 512, least=4)
    rounds, length = [], context.fitting()
    for turn in range(ROUNDS + 1):
        rollouts, voting = overhead_rollouts(context.run, turn, count, length)
        seconds, batch = context.credit(rollouts, voting)
        if turn:  # the first warms up
            usage = batch.usage
            rounds.append({
                "rollouts_per_s": count / seconds,
                "tokens_per_s": usage.completion_tokens / seconds,
                "prompt_tokens_per_s": usage.prompt_tokens / seconds,
                "cached": usage.cached_tokens / usage.prompt_tokens,
            })  # fmt: skip
    found.numbers = {"rollouts": count, "length": length, "run": context.run, **_medians(rounds)}
    context.pace = min(context.pace, 1 / found.numbers["rollouts_per_s"])
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
            rounds.append({
                "rollouts_per_s": count / got["seconds"],
                "tokens_per_s": got["tokens"] / got["seconds"],
                "prompt_tokens_per_s": got["prompt_tokens"] / got["seconds"],
            })  # fmt: skip
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
        for style, cost in zip(STYLES, (0.7, 1.0, 2.5), strict=True):
            cost *= 4 if length == "long" else 1
            count = context.count(found, 10, cost, 256)
            rollouts = context.groups(f"style {style} {length}", count, 8, length)
            voting = {**FULL_VOTE, "critique_style": style, "seed": 1}
            found.numbers[f"{length}, {style}"] = _row(context, rollouts, voting)
    if "long" not in lengths:
        found.notes.append("long rollouts were left out: they exceed the judge's context")
    return found


def votes(context: Context) -> Found:
    """Throughput by k, without and with early stopping."""
    found = Found()
    for k in K:
        for early in (False, True):
            count = context.count(found, 8, 0.4 + 0.15 * k, 256)
            rollouts = context.groups(f"votes {k} {early}", count, 8)
            voting = {"n": k, "early_stop": early, "critique_style": "brief", "seed": 1}
            name = f"{k}, early stopping" if early else str(k)
            found.numbers[name] = _row(context, rollouts, voting)
    return found


def budgets(context: Context) -> Found:
    """Throughput by thinking budget."""
    found = Found()
    for budget in BUDGETS:
        if not context.holds(2000 + budget) and budget > 256:
            found.notes.append(f"a budget of {budget} was left out: it exceeds the judge's context")
            continue
        count = context.count(found, 20, 0.7 + budget / 40, 64)
        rollouts = context.groups(f"budget {budget}", count, 4)
        voting = {
            **FULL_VOTE, "critique_style": "verdict", "thinking_tokens": budget, "seed": 1,
        }  # fmt: skip
        found.numbers[str(budget)] = _row(context, rollouts, voting)
    return found


def _row(context: Context, rollouts: list[Made], voting: dict[str, Any]) -> dict[str, float]:
    seconds, batch = context.credit(rollouts, voting)
    usage, count = batch.usage, len(rollouts)
    return {
        "rollouts": count,
        "seconds": seconds,
        "rollouts_per_s": count / seconds,
        "tokens_per_s": usage.completion_tokens / seconds,
        "prompt_tokens": usage.prompt_tokens / usage.critiques_run,
        "completion_tokens_per_rollout": usage.completion_tokens / count,
        "cached": usage.cached_tokens / usage.prompt_tokens,
        **accuracy(rollouts, batch.credited),
    }


def latency(context: Context) -> Found:
    """How long a caller waits for one rollout, alone and beside others."""
    found = Found()
    for callers, seconds, most in ((1, 20, 64), (CALLERS, 25, 512)):
        least = 4 if callers == 1 else 8
        cost = 2.0 if callers == 1 else 1.0
        count = context.count(found, seconds, cost, most, least)
        rollouts = context.groups(f"latency {callers}", count, 4)
        times, taken = asyncio.run(_callers(context.url, rollouts, callers))
        found.numbers["alone" if callers == 1 else f"{callers} callers"] = {
            "rollouts": count,
            "p50_ms": 1000 * median(times),
            "p99_ms": 1000 * quantiles(times, n=100, method="inclusive")[98],
            "rollouts_per_s": count / taken,
        }
    return found


async def _callers(url: str, rollouts: Sequence[Made], count: int) -> tuple[list[float], float]:
    waiting, times = list(rollouts), []
    async with AsyncCreditClient(url, batch_size=1, concurrency=count) as client:

        async def call() -> None:
            while waiting:
                one, began = waiting.pop(), time.perf_counter()
                voting = {"n": 4, "critique_style": "brief"}
                batch = await client.credit([one.sent()], deadline=DEADLINE, voting=voting)
                batch.raise_for_errors()
                times.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(call() for _ in range(count)))
        return times, time.perf_counter() - began
