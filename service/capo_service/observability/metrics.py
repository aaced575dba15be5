"""The service's Prometheus metrics, by Prometheus' naming conventions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

import capo_wire as wire
from capo_wire.aggregate import agreement

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_LATE = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1)
_SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
_STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (32, 128, 512, 2048, 8192, 32768)
_THOUGHT = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


class _Count(Collector):
    """A counter whose value lives elsewhere and is read at every scrape."""

    def __init__(self, name: str, help_text: str, read: Callable[[], int]) -> None:
        self._about = name, help_text
        self._read = read

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(*self._about, value=self._read())


class Telemetry:
    """The metrics of one service; `expose` is its part of `GET /metrics`."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, help_text: str, *labels: str) -> Counter:
            return Counter(name, help_text, labels, registry=registry)

        def histogram(name: str, help_text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, help_text, buckets=buckets, registry=registry)

        self.requests = counter("capo_requests", "Requests for credit, by HTTP status", "status")
        self.seconds = histogram(
            "capo_request_seconds", "Latency of a request for credit in seconds", _SECONDS
        )
        self.rollouts = counter(
            "capo_rollouts", "Rollouts answered, by HTTP status and key", "status", "key"
        )
        self.queue_seconds = histogram(
            "capo_queue_seconds", "Queue time of a rollout in seconds", _SECONDS
        )
        self.judge_seconds = histogram(
            "capo_judge_seconds", "Time of a rollout with the judge in seconds", _SECONDS
        )
        self.shared = counter(
            "capo_rollouts_shared",
            "Rollouts answered from the result cache or together with an identical one in flight",
        )
        self.steps = counter("capo_steps", "Steps voted on, by verdict", "verdict")
        self.flagged = counter(
            "capo_rollouts_judged",
            "Rollouts judged, by outcome and by whether a step was found wrong",
            "outcome",
            "flagged",
        )
        self.verifications = counter(
            "capo_verifications",
            "Answers verified, by result: right, wrong, or why they could not be checked",
            "result",
        )
        self.suspicions = counter(
            "capo_suspicions",
            "Reward-hacking flags of judged rollouts, by reason and action",
            "reason",
            "action",
        )
        self.canaries = counter(
            "capo_canaries",
            "Known-answer probes judged, by kind (good, bad) and result",
            "worth",
            "judged",
        )
        self.critiques = counter(
            "capo_critiques",
            "Critiques completed (with exact votes: verdicts read), by validity",
            "valid",
        )
        self.cut_off = counter("capo_critiques_cut_off", "Critiques cut off at max_tokens")
        self.thought_tokens = histogram(
            "capo_thought_tokens", "Tokens of the thought before a completed critique", _THOUGHT
        )
        self.truncated = counter(
            "capo_thoughts_truncated", "Thoughts that reached their budget and were ended there"
        )
        self.saved = counter(
            "capo_critiques_saved",
            "Critiques skipped because they could no longer change the vote",
        )
        self.agreement = histogram(
            "capo_agreement_ratio",
            "Mean agreement between the critiques of a rollout (0.5 to 1)",
            _SHARES,
        )
        self.tokens = counter(
            "capo_judge_tokens", "Tokens of the judge, by kind and key", "kind", "key"
        )
        self.rollout_steps = histogram("capo_rollout_steps", "Steps of a rollout", _STEPS)
        self.rollout_tokens = histogram(
            "capo_rollout_tokens", "Tokens of a rollout, if its token ids were sent", _TOKENS
        )
        self.cache_lookups = counter(
            "capo_result_cache", "Result-cache lookups by result (hit, miss, error)", "result"
        )
        self.loop_blocked = histogram(
            "capo_loop_blocked_seconds",
            "Event-loop lag caused by this process in seconds, sampled every 5 ms",
            _LATE,
        )
        self.task_failures = counter(
            "capo_background_failures", "Background tasks that failed, by task", "task"
        )
        self.key_reloads = counter(
            "capo_key_reloads", "Reloads of the API key file, by result (done, failed)", "result"
        )

        self._canary_accuracy = Gauge(
            "capo_canary_accuracy_ratio",
            "Share of recent known-answer probes that were judged correctly, by kind",
            ["worth"],
            registry=registry,
        )

    def watch_canaries(self, worth: str, read: Callable[[], float]) -> None:
        """Expose the accuracy on known-answer probes of a kind, `good` or `bad`."""
        self._canary_accuracy.labels(worth).set_function(read)

    def about(self, **facts: str) -> None:
        """Expose facts that do not change while the service runs."""
        Info("capo_build", "The service and its judge", registry=self.registry).info(facts)

    def requested(self, status: int, seconds: float) -> None:
        """Count a request for credit by its HTTP status, and its latency in seconds."""
        self.requests.labels(str(status)).inc()
        self.seconds.observe(seconds)

    def key_reload(self, result: str) -> None:
        """Count a reload of the key file: `done` or `failed`."""
        self.key_reloads.labels(result).inc()

    def watch_service(
        self,
        *,
        ready: Callable[[], bool],
        restarts: Callable[[], int],
        accepted: Callable[[], int],
        running: Callable[[], int],
        queued_tokens: Callable[[], int],
        loop_lag: Callable[[], float],
    ) -> None:
        """Expose values of the service, read at every scrape."""

        def gauge(name: str, help_text: str, read: Callable[[], float]) -> None:
            Gauge(name, help_text, registry=self.registry).set_function(read)

        gauge("capo_ready", "1 if the judge serves requests", lambda: float(ready()))
        gauge("capo_accepted", "Rollouts accepted and not yet answered", accepted)
        gauge("capo_running", "Rollouts being judged", running)
        gauge("capo_queued_tokens", "Tokens of rollouts in the queue", queued_tokens)
        gauge(
            "capo_loop_blocked_longest_seconds",
            "Longest event-loop lag caused by this process in the last one to two minutes",
            loop_lag,
        )
        self.registry.register(
            _Count(
                "capo_engine_restarts",
                "Engine restarts after a crash or a missed heartbeat",
                restarts,
            )
        )

    def answered(self, result: wire.Credited | wire.Failed, key: str) -> None:
        """Count one answered rollout."""
        status = result.error.status if isinstance(result, wire.Failed) else 200
        self.rollouts.labels(str(status), key).inc()
        if isinstance(result, wire.Credited) and result.cached:
            self.shared.inc()

    def judged(self, result: wire.Credited, key: str, thinks: bool = False) -> None:
        """Count one judged rollout and its critiques; once, also where requests share it.

        Args:
            result: its credit, with critiques.
            key: the API key.
            thinks: whether the judge had a thinking budget.
        """
        wrong = sum(step.wrong for step in result.steps)
        self.steps.labels("wrong").inc(wrong)
        self.steps.labels("right").inc(len(result.steps) - wrong)
        self.flagged.labels(_outcome(result.outcome), str(wrong > 0).lower()).inc()
        if result.outcome and result.outcome.source == "math_verify":
            checked = result.outcome.reason or _outcome(result.outcome)
            self.verifications.labels(checked).inc()
        self.rollout_steps.observe(len(result.steps))
        for suspicion in result.suspicion:
            self.suspicions.labels(suspicion.reason, suspicion.action).inc()
        if result.steps and (last := result.steps[-1].token_span) is not None:
            self.rollout_tokens.observe(last[1])
        if result.steps:
            if result.exact is None:  # else `asked` is only a limit
                asked = result.steps[0].votes.asked * result.windows
                self.saved.inc(asked - result.usage.critiques_run)
            agreed = agreement(result.steps)
            if agreed is not None:
                self.agreement.observe(agreed)
        self.critiqued(result.critiques or (), result.usage, key, thinks)

    def critiqued(
        self,
        critiques: Sequence[wire.Critique],
        usage: wire.Usage,
        key: str,
        thinks: bool = False,
    ) -> None:
        """Count completed critiques, their thoughts and their tokens."""
        for critique in critiques:
            if critique.critic != "judge":
                continue
            self.critiques.labels(str(critique.valid).lower()).inc()
            if critique.finish_reason == "length":
                self.cut_off.inc()
            # Some models think without a budget; of a critique that failed nothing is known.
            if critique.thinking_tokens or (thinks and critique.finish_reason != "error"):
                self.thought_tokens.observe(critique.thinking_tokens)
                self.truncated.inc(critique.thinking_truncated)
        self.tokens.labels("prompt", key).inc(usage.prompt_tokens)
        self.tokens.labels("cached", key).inc(usage.cached_tokens)
        self.tokens.labels("completion", key).inc(usage.completion_tokens)
        self.tokens.labels("thinking", key).inc(usage.thinking_tokens)

    def totals(self) -> dict[str, float | None]:
        """The values of the live view, with the accuracy on probes if any were judged."""
        read = self.registry.get_sample_value

        def total(counter: Counter, **labels: str) -> float:
            samples = (sample for metric in counter.collect() for sample in metric.samples)
            return sum(
                sample.value
                for sample in samples
                if sample.name.endswith("_total") and labels.items() <= sample.labels.items()
            )

        return {
            "rollouts": total(self.rollouts, status="200"),
            "completion_tokens": total(self.tokens, kind="completion"),
            "steps_wrong": total(self.steps, verdict="wrong"),
            "steps_right": total(self.steps, verdict="right"),
            "agreement_sum": read("capo_agreement_ratio_sum") or 0.0,
            "agreement_count": read("capo_agreement_ratio_count") or 0.0,
            "critiques_invalid": total(self.critiques, valid="false"),
            "critiques": total(self.critiques),
            "thoughts": read("capo_thought_tokens_count") or 0.0,
            "thought_tokens": read("capo_thought_tokens_sum") or 0.0,
            "thoughts_truncated": total(self.truncated),
            "canary_good": read("capo_canary_accuracy_ratio", {"worth": "good"}),
            "canary_bad": read("capo_canary_accuracy_ratio", {"worth": "bad"}),
        }

    def expose(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def _outcome(outcome: wire.Outcome | None) -> str:
    if outcome is None:
        return "none"
    return "right" if outcome.value >= 0.5 else "wrong"
