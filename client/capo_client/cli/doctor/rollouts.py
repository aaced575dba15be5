"""Rollouts that are credited end to end: one with all checks, then a few for the throughput.

Each is an arithmetic story with one wrong equation, which every kind of judge can read, and no two
are the same, so that the judge and not the result cache answers.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx

import capo_wire as wire
from capo_client import errors
from capo_client.async_client import AsyncCreditClient
from capo_client.cli.doctor.report import Report
from capo_client.cli.doctor.service import STEP_ROLLOUTS
from capo_client.cli.exit_codes import FAILURES, UNAVAILABLE
from capo_client.client import CreditClient

_WRONG = 0  # the step with the false equation
_STEPS = 3
_FIRST_SECONDS = 120.0  # for the first rollout, whose judge may still compile or warm up
_MOST, _FEW = 32, 8  # rollouts of the measurement, and those of a slow judge
_SLOW_SECONDS = 2.0  # the latency of a slow judge
_MEASURE_SECONDS = 10.0
_LONG_STEP_SECONDS = 120.0
_TOKEN = re.compile(r"\s*\S+")
_NAMES = ("Ann", "Ben", "Cara", "Dan", "Eve", "Finn", "Gus", "Hana")
_THINGS = ("coins", "beads", "cards", "nuts", "pens", "shells", "stamps")


@dataclass(frozen=True, slots=True)
class Measured:
    """How many rollouts were credited in how many seconds, of those sent at once."""

    sent: int
    done: int
    seconds: float

    @property
    def rate(self) -> float:
        """Rollouts per second."""
        return self.done / self.seconds


def stories(count: int) -> list[wire.Rollout]:
    """Different rollouts with a false first equation and the offsets of their words."""
    chosen = random.Random()  # noqa: S311  # texts, not secrets
    found: dict[str, wire.Rollout] = {}
    while len(found) < count:
        name, thing = chosen.choice(_NAMES), chosen.choice(_THINGS)
        first, more, less = (chosen.randint(*bounds) for bounds in ((20, 59), (5, 29), (2, 9)))
        wrong = first + more + chosen.choice((-10, -2, -1, 1, 2, 10))
        question = (
            f"{name} has {first} {thing}. {name} finds {more}. {name} sells {less}. "
            f"How many {thing} now?"
        )
        response = (
            f"{first} + {more} = {wrong}\n\n{wrong} - {less} = {wrong - less}\n\n"
            f"The answer is \\boxed{{{wrong - less}}}."
        )
        found[question] = wire.Rollout(
            question=question,
            response=response,
            reference=f"\\boxed{{{first + more - less}}}",
            token_offsets=[match.span() for match in _TOKEN.finditer(response)],
        )
    return list(found.values())


def check_rollout(report: Report, client: CreditClient) -> tuple[wire.Rollout, float]:
    """Credit one rollout, and check its result. Returns the rollout and its latency in seconds.

    Raises:
        CannotGoOn: it is not credited.
    """
    [rollout] = stories(1)
    with report.working("crediting a rollout"):
        result, seconds = _credit(report, "rollout", client, rollout)
    tokens, rewards = len(rollout.token_offsets or ()), result.token_rewards or []
    if len(rewards) != tokens or len(result.steps) != _STEPS:
        report.fail(
            "rollout",
            f"{len(result.steps)} steps and {len(rewards)} rewards for {_STEPS} steps and "
            f"{tokens} tokens",
            "this is a fault of the service: update it, or report it with this output",
        )
        return rollout, seconds
    report.ok(
        "rollout",
        f"credited in {seconds:.2f} s: {_STEPS} steps, and one reward for each of {tokens} tokens",
    )
    _check_verdict(report, result)
    return rollout, seconds


def _check_verdict(report: Report, result: wire.Credited) -> None:
    votes = result.steps[_WRONG].votes
    flagged = [step.index for step in result.steps if step.wrong]
    if flagged == [_WRONG]:
        report.ok("verdict", f"the judge marked the wrong step ({_WRONG}), and no other")
    else:
        marked = f"step {', '.join(map(str, flagged))}" if flagged else "no step"
        report.warn(
            "verdict",
            f"the judge marked {marked}; the wrong step is {_WRONG}",
            "one rollout says little: measure the judge with capo eval before you train with it",
        )
    if (missing := votes.asked - votes.valid) > 0 and votes.valid < votes.asked / 2:
        report.warn(
            "critiques",
            f"{missing} of {votes.asked} critiques could not be parsed",
            "use a judge that follows the format, or see `capo prompt` for what it is asked",
        )


def check_token_ids(
    report: Report, client: CreditClient, http: httpx.Client, tokenizer: str
) -> None:
    """Credit a rollout that is sent as token ids of a served tokenizer.

    Raises:
        CannotGoOn: it is not credited.
    """
    [story] = stories(1)
    asked = {"tokenizer": tokenizer, "response": story.response}
    response = http.post("/tokens", json=asked)
    if response.status_code != 200:
        detail = f"POST /tokens returns {response.status_code}: {response.text[:200]}"
        report.warn("token ids", detail, "give the key the role credit, or update the service")
        return
    ids = wire.Tokens.model_validate_json(response.content).response_token_ids
    given = story.model_dump(exclude={"token_offsets"}, exclude_none=True)
    rollout = wire.Rollout(**given, response_token_ids=ids, tokenizer=tokenizer)
    result, _ = _credit(report, "token ids", client, rollout)
    rewards = len(result.token_rewards or ())
    if rewards == len(ids):
        report.ok("token ids", f"one reward for each of {len(ids)} ids of {tokenizer}")
    else:
        report.fail(
            "token ids", f"{rewards} rewards for {len(ids)} ids", "update the service, or report it"
        )


def _credit(
    report: Report, name: str, client: CreditClient, rollout: wire.Rollout
) -> tuple[wire.Credited, float]:
    started = time.monotonic()
    try:
        [result] = client.credit([rollout], deadline=_FIRST_SECONDS)
    except (errors.UnavailableError, errors.DeadlineExceededError) as error:
        advice = "run this command again; the service's log says what it does"
        report.stop(name, str(error), advice, UNAVAILABLE)
    except errors.CapoError as error:
        report.stop(name, str(error), "change what the message names", FAILURES)
    if isinstance(result, wire.Failed):
        detail = f"not credited: {result.error.status} {result.error.detail}"
        code = UNAVAILABLE if result.error.status in (429, 503, 504) else FAILURES
        report.stop(name, detail, "the service's log says more", code)
    return result, time.monotonic() - started


def check_cache(report: Report, client: CreditClient, rollout: wire.Rollout) -> None:
    """Say whether the service answers an identical rollout from its result cache."""
    result, seconds = _credit(report, "cache", client, rollout)
    if result.cached:
        report.ok(
            "cache",
            f"the same rollout again came from the result cache in {seconds * 1000:.0f} ms",
            "to have it judged again, send another seed",
        )
    else:
        report.ok("cache", "an identical rollout is judged again: the result cache is off")


def measure(report: Report, settings: dict[str, Any], latency: float) -> Measured:
    """Credit a few rollouts at once, for at most some seconds.

    Args:
        report: shows that the measurement runs.
        settings: arguments of the client.
        latency: of one rollout, in seconds.
    """
    rollouts = stories(_FEW if latency > _SLOW_SECONDS else _MOST)
    with report.working(f"measuring with {len(rollouts)} rollouts"):
        return asyncio.run(_measure(settings, rollouts))


async def _measure(settings: dict[str, Any], rollouts: Sequence[wire.Rollout]) -> Measured:
    done, started = 0, time.monotonic()
    last = started
    # Small requests, all in flight at once, as those of a training step are.
    async with AsyncCreditClient(**settings, batch_size=4, concurrency=len(rollouts)) as client:
        try:
            async with (
                asyncio.timeout(_MEASURE_SECONDS),
                aclosing(client.credit_stream(rollouts, deadline=_FIRST_SECONDS)) as stream,
            ):
                async for _, result in stream:
                    if isinstance(result, wire.Credited) and not result.cached:
                        done, last = done + 1, time.monotonic()
        except TimeoutError:
            pass
    return Measured(len(rollouts), done, max(last - started, 1e-3))


def check_throughput(report: Report, measured: Measured) -> None:
    """Say what the measurement means for a training step."""
    if not measured.done:
        report.warn(
            "throughput",
            f"none of {measured.sent} rollouts was credited within {_MEASURE_SECONDS:g} s",
            "use a GPU or a smaller judge; on a busy service, measure again later",
        )
        return
    wait = STEP_ROLLOUTS / measured.rate
    report.measured.update(
        rollouts=measured.done,
        seconds=round(measured.seconds, 3),
        rollouts_per_second=round(measured.rate, 2),
        seconds_for_1024_rollouts=round(wait, 1),
    )
    said = (
        f"{measured.done} different rollouts of {_STEPS} short steps in {measured.seconds:.1f} s, "
        f"{measured.rate:.1f} rollouts/s: a training step of {STEP_ROLLOUTS:,} such rollouts would "
        f"wait {_duration(wait)} at this rate"
    )
    why = (
        f"an estimate: longer rollouts are slower, and a GPU that has more than {measured.sent} "
        "at once is faster"
    )
    if wait > _LONG_STEP_SECONDS:
        report.warn(
            "throughput",
            said,
            f"{why}. To wait less: critique style verdict, fewer critiques (k), more replicas, or "
            "a smaller judge",
        )
    else:
        report.ok("throughput", said, why)


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
