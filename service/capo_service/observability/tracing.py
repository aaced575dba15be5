"""OpenTelemetry traces: a span per request, and in it spans of each rollout's queue, engine, vote.

Without `otlp_endpoint` nothing is recorded, at almost no cost. A client's `traceparent` (W3C Trace
Context) becomes the parent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.propagate import extract
from opentelemetry.trace import Span, SpanKind

from capo_service import version
from capo_service.settings import Settings

tracer = trace.get_tracer("capo_service")


def set_up(settings: Settings) -> Callable[[], None]:
    """Export spans to the configured collector; returns a function that flushes them.

    Raises:
        ValueError: the exporter is not installed.
    """
    if settings.otlp_endpoint is None:
        return lambda: None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ImportError as error:
        raise ValueError(
            f"otlp_endpoint needs the exporter ({error}): pip install 'capo-credit[otel]'"
        ) from error
    provider = TracerProvider(
        resource=Resource.create({"service.name": "capo-credit", "service.version": version()}),
        sampler=ParentBased(TraceIdRatioBased(settings.trace_share)),
    )
    exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint.rstrip("/") + "/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=65_536))
    trace.set_tracer_provider(provider)
    return provider.shutdown


@contextmanager
def request_span(name: str, headers: Iterable[tuple[bytes, bytes]], request: str) -> Iterator[Span]:
    """The span of a request, as a child of its client's span."""
    carrier = {key.decode("latin-1"): value.decode("latin-1") for key, value in headers}
    with tracer.start_as_current_span(
        name, context=extract(carrier), kind=SpanKind.SERVER, attributes={"request.id": request}
    ) as span:
        yield span
