"""Data of the live view: samples of the counters, and recently credited rollouts."""

from __future__ import annotations

import asyncio
import time
from collections import deque

import capo_wire as wire
from capo_service.observability.metrics import Telemetry
from capo_service.scheduling.admission import Admission
from capo_service.scheduling.api_keys import ANONYMOUS, ApiKey

SECONDS = 2.0
_SAMPLES = 450  # a quarter of an hour
_MOST_CHARACTERS = 20_000  # of a rollout that is kept, and of all its thoughts together
_AT_ONCE = 200  # rollouts in one answer, the newest


class LiveView:
    """Samples and recent rollouts, bounded and in memory only.

    Args:
        keeps: number of recent rollouts to keep with their text; 0: none.
        telemetry: the counters to sample.
        admission: the queue.
    """

    def __init__(self, keeps: int, telemetry: Telemetry, admission: Admission) -> None:
        self._recent: deque[wire.RecentRollout] = deque(maxlen=keeps)
        self._samples: deque[wire.LiveSample] = deque(maxlen=_SAMPLES)
        self._telemetry = telemetry
        self._admission = admission
        self.keeps = keeps

    def note(
        self,
        request_id: str,
        rollout: wire.Rollout,
        options: wire.CreditOptions,
        full: wire.Credited,
        key: str,
    ) -> None:
        """Keep a credited rollout, unless the view keeps none."""
        if not self.keeps or len(full.response or "") > _MOST_CHARACTERS:
            return
        self._recent.append(
            wire.RecentRollout(
                at=time.time(),
                request=request_id,
                key=key,
                run=options.run,
                question=rollout.prompt_text()[:_MOST_CHARACTERS],
                method=options.voting.method,
                result=_with_short_thoughts(full),
            )
        )

    async def run(self) -> None:
        """Take samples; runs until it is cancelled."""
        while True:
            self._samples.append(self._sample())
            await asyncio.sleep(SECONDS)

    def _sample(self) -> wire.LiveSample:
        return wire.LiveSample(
            at=time.time(),
            accepted=self._admission.accepted,
            running=self._admission.running,
            queued_tokens=self._admission.queued_tokens,
            **self._telemetry.totals(),
        )

    def seen_by(self, key: ApiKey, model: str, after: float = 0.0) -> wire.Live:
        """What a client may see: all samples, and its own rollouts (with role `metrics`, all).

        Args:
            key: the client's API key.
            model: the judge's name.
            after: only what is newer, in seconds since 1970.
        """
        everything = key.name == ANONYMOUS or "metrics" in key.roles
        recent = [
            rollout
            for rollout in self._recent
            if rollout.at > after and (everything or rollout.key == key.name)
        ]
        return wire.Live(
            model=model,
            seconds=SECONDS,
            recent=recent[-_AT_ONCE:],
            keeps=self.keeps,
            samples=[sample for sample in self._samples if sample.at > after],
        )


def _with_short_thoughts(result: wire.Credited) -> wire.Credited:
    """A result with its thoughts cut, so that the rollouts that are kept need little memory."""
    critiques = result.critiques or []
    if sum(len(each.thinking or "") for each in critiques) <= _MOST_CHARACTERS:
        return result
    most = _MOST_CHARACTERS // len(critiques)
    cut = [
        each.model_copy(update={"thinking": f"{each.thinking[:most]}…"})
        if each.thinking and len(each.thinking) > most
        else each
        for each in critiques
    ]
    return result.model_copy(update={"critiques": cut})
