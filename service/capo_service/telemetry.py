"""What the service counts, in Prometheus' form."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from capo_client import wire

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Telemetry:
    """Counters of one service; `expose` is the body of `GET /metrics`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.rollouts = Counter(
            "capo_rollouts", "Rollouts answered, by HTTP status", ["status"], registry=self.registry
        )
        self.steps = Counter(
            "capo_steps", "Steps voted on, by verdict", ["verdict"], registry=self.registry
        )
        self.critiques = Counter(
            "capo_critiques", "Critiques that ran to their end", ["valid"], registry=self.registry
        )
        self.tokens = Counter(
            "capo_judge_tokens", "Tokens of the judge, by kind", ["kind"], registry=self.registry
        )
        self.requests = Counter(
            "capo_requests", "Requests to /credit, by HTTP status", ["status"],
            registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "capo_request_seconds", "Time of a request to /credit", buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Expose a value that is read when it is asked for."""
        Gauge(name, help_text, registry=self.registry).set_function(read)

    def count(self, result: wire.Credited | wire.Failed) -> None:
        """Count one answered rollout. What was judged for another caller is not counted twice."""
        if isinstance(result, wire.Failed):
            self.rollouts.labels(str(result.error.status)).inc()
            return
        self.rollouts.labels("200").inc()
        if result.cached:
            return
        wrong = sum(step.wrong for step in result.steps)
        self.steps.labels("wrong").inc(wrong)
        self.steps.labels("right").inc(len(result.steps) - wrong)
        for critique in result.critiques or ():
            self.critiques.labels(str(critique.valid).lower()).inc()
        self.tokens.labels("prompt").inc(result.usage.prompt_tokens)
        self.tokens.labels("cached").inc(result.usage.cached_tokens)
        self.tokens.labels("completion").inc(result.usage.completion_tokens)

    def expose(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
