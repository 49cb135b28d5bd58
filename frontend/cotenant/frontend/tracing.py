"""Spans of requests, exported over OTLP where an endpoint is set; nothing of OpenTelemetry is imported otherwise.

A request is a server span, child of its client's `traceparent`; queueing and execution are its children, made of the
times in the executor's answer once that is there. The SDK's own variables (OTEL_TRACES_SAMPLER,
OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_HEADERS, ...) apply.
"""

import time
from collections.abc import Iterable
from typing import Any, Protocol

import grpc

from cotenant.frontend import response
from cotenant.frontend.dispatch import Answered, Pending
from cotenant.frontend.errors import RequestError
from cotenant.frontend.trace_file import TraceFile
from cotenant.frontend.trace_settings import OPENTELEMETRY, TRITON, InForce, TraceSettings
from cotenant.runtime import trace
from cotenant.runtime.clock import now_ns

_FLUSH_MS = 2000  # longest wait, at the end, for spans to leave


def traceparent_of(metadata: Iterable[tuple[str, Any]] | None) -> str:
    """The client's trace context from a call's metadata; empty if there is none, or none that is well formed."""
    for key, value in metadata or ():
        if key == "traceparent" and isinstance(value, str) and trace.valid(value):
            return value
    return ""


class Span(Protocol):
    """One request's trace, from arrival to answer."""

    traceparent: str  # what the services behind us are told
    sampled: bool  # whether it will be exported, so that details are worth asking for

    def answered(self, pending: Pending, answered: Answered) -> None:
        """The request ran."""

    def failed(self, error: RequestError) -> None:
        """The request got no outputs."""

    def end(self) -> None:
        """The request is done with."""


class _Unrecorded:
    """Carries the client's context, and no more."""

    __slots__ = ("traceparent",)
    sampled = False

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    def answered(self, pending: Pending, answered: Answered) -> None:
        """See `Span`."""

    def failed(self, error: RequestError) -> None:
        """See `Span`."""

    def end(self) -> None:
        """See `Span`."""


class Tracing:
    """Makes spans: of OpenTelemetry's where there is a provider, or lines of a file; else ones that only carry context.

    `settings` say which requests are traced.
    """

    def __init__(self, provider: Any = None, settings: TraceSettings | None = None) -> None:
        mode = OPENTELEMETRY if provider else TRITON
        every = InForce(("TIMESTAMPS",), 1, -1, 0) if provider else InForce((), 1000, -1, 0)
        self.settings = settings or TraceSettings(mode, started_with=every)
        self._file = TraceFile(self.settings) if self.settings.file else None
        self._provider = provider
        self._tracer = provider.get_tracer("cotenant.frontend") if provider else None

    def start(self, metadata: Iterable[tuple[str, Any]] | None, rpc: str, model: str, arrival_ns: int) -> Span:
        """A request has arrived, by the method `rpc`."""
        traceparent = traceparent_of(metadata)
        if self._tracer is None and self._file is None:
            return _Unrecorded(traceparent)
        if not self.settings.sample(model, wanted=self._tracer is not None and bool(traceparent)):
            return _Unrecorded(traceparent)
        if self._file is not None:
            return self._file.span(traceparent, model, arrival_ns)
        return _Recorded(self._tracer, traceparent, rpc, model, arrival_ns)

    def close(self) -> None:
        """Sends what is left, for at most two seconds."""
        if self._file is not None:
            self._file.close()
        if self._provider is not None:
            self._provider.force_flush(_FLUSH_MS)


class _Recorded:
    """A span of the SDK's, with its children."""

    def __init__(self, tracer: Any, traceparent: str, rpc: str, model: str, arrival_ns: int) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = tracer
        self._since_1970_ns = time.time_ns() - now_ns()
        service, _, method = rpc.rpartition("/")
        self._span = tracer.start_span(
            rpc,
            TraceContextTextMapPropagator().extract({"traceparent": traceparent}),
            kind=SpanKind.SERVER,
            start_time=arrival_ns + self._since_1970_ns,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": method,
                "cotenant.model": model,
            },
        )
        known = self._span.get_span_context()
        self.sampled: bool = self._span.is_recording()
        self.traceparent = f"00-{known.trace_id:032x}-{known.span_id:016x}-{int(known.trace_flags):02x}"

    def answered(self, pending: Pending, answered: Answered) -> None:
        """See `Span`."""
        execution = answered.answer.execution
        queued_until_ns = pending.arrival_ns + response.queue_ns(pending, answered)
        self._span.set_attributes(
            {"cotenant.version": pending.model.version, "rpc.grpc.status_code": grpc.StatusCode.OK.value[0]}
        )
        self._child("queue", pending.arrival_ns, queued_until_ns, {})
        self._child(
            "execution",
            answered.started_ns,
            answered.started_ns + execution.infer_ns,
            {
                "cotenant.batch_id": execution.batch_id,
                "cotenant.batch_size": execution.batch_size,
                "cotenant.co_runners": response.mean_co_runners(execution),
                "cotenant.measured_ns": execution.infer_ns,
                "cotenant.predicted_ns": execution.forecast.duration_ns,
                "cotenant.predicted_bound_ns": execution.forecast.bound_ns,
            },
        )

    def _child(self, name: str, start_ns: int, end_ns: int, attributes: dict[str, Any]) -> None:
        from opentelemetry.trace import set_span_in_context

        inside = set_span_in_context(self._span)
        start_ns, end_ns = start_ns + self._since_1970_ns, end_ns + self._since_1970_ns
        self._tracer.start_span(name, inside, start_time=start_ns, attributes=attributes).end(end_ns)

    def failed(self, error: RequestError) -> None:
        """See `Span`."""
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attributes({"rpc.grpc.status_code": error.code.value[0], "cotenant.reason": error.reason})
        self._span.set_status(Status(StatusCode.ERROR, error.message))

    def end(self) -> None:
        """See `Span`."""
        self._span.end()


def connect(endpoint: str, *, software: str, file: str = "") -> Tracing:
    """Tracing that exports to an OTLP gRPC endpoint, "host:port" or a URL, or writes to a file; none without either.

    Raises ValueError where OpenTelemetry is not installed, or both are given.
    """
    if endpoint and file:
        raise ValueError("--otlp-endpoint and --trace-file exclude each other")
    if not endpoint:
        return Tracing(settings=TraceSettings(TRITON, file))
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ValueError(f"--otlp-endpoint needs the extra cotenant[opentelemetry]: {error}") from error
    resource = Resource.create({"service.name": "cotenant-frontend", "service.version": software})
    provider = TracerProvider(resource=resource)
    exporter = OTLPSpanExporter(endpoint, insecure=not endpoint.startswith("https://"))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider)
