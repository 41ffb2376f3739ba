"""Spans of a click's way through the worker, in OpenTelemetry's terms.

A click with a sampled `traceparent` gets these, and its answer the context of the span `send`:

    process CLICKS             from the poll until the answer is acknowledged; the sender's child
      decode, append, score    steps 2 to 4 of the click's batch
      send RECOMMENDATIONS     steps 5 and 6
      commit                   step 7

A span is exported when it ends, so an answer that is never acknowledged leaves none but those of
steps 2 to 4. Names and attributes follow OpenTelemetry's conventions for messaging.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from nextclick.shared.messages import Headers, Message, trace_context

_PROPAGATOR = TraceContextTextMapPropagator()
_STEPS = ("polled", "decoded", "appended", "scored")
_SPANS = ("decode", "append", "score")
"""The span between each of _STEPS and the next."""


class ClickTracer:
    """Makes the spans of a batch: a TraceBatch."""

    def __init__(self, tracer: Tracer, group: str, recommendations_topic: str) -> None:
        """group: the worker's consumer group."""
        self._tracer = tracer
        self._group = group
        self._topic = recommendations_topic

    def __call__(self, messages: Sequence[Message], done_at: Mapping[str, float]) -> SpannedBatch:
        """See TraceBatch."""
        headers, spans = [], []
        for message in messages:
            context = trace_context(message.headers)
            opened = self._open(message, context, done_at) if context else None
            spans.append(opened)
            headers.append(_headers(opened[1]) if opened else context)
        return SpannedBatch(self._tracer, headers, spans)

    def _open(
        self, message: Message, context: Headers, done_at: Mapping[str, float]
    ) -> tuple[Span, Span] | None:
        """The spans `process` and `send`, with those of the steps between; None if not sampled."""
        sender = _PROPAGATOR.extract({name: value.decode() for name, value in context})
        if not trace.get_current_span(sender).get_span_context().trace_flags.sampled:
            return None
        process = self._tracer.start_span(
            f"process {message.topic}",
            sender,
            SpanKind.CONSUMER,
            {
                "messaging.system": "kafka",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": message.topic,
                "messaging.destination.partition.id": str(message.partition),
                "messaging.kafka.offset": message.offset,
                "messaging.consumer.group.name": self._group,
            },
            start_time=_ns(done_at["polled"]),
        )
        within = trace.set_span_in_context(process)
        for name, began, ended in zip(_SPANS, _STEPS[:-1], _STEPS[1:], strict=True):
            step = self._tracer.start_span(name, within, start_time=_ns(done_at[began]))
            step.end(_ns(done_at[ended]))
        send = self._tracer.start_span(
            f"send {self._topic}",
            within,
            SpanKind.PRODUCER,
            {
                "messaging.system": "kafka",
                "messaging.operation.name": "send",
                "messaging.operation.type": "send",
                "messaging.destination.name": self._topic,
            },
            start_time=_ns(done_at["scored"]),
        )
        return process, send


class SpannedBatch:
    """The spans of a batch that have not ended: a BatchTraces."""

    def __init__(
        self,
        tracer: Tracer,
        headers: Sequence[Headers],
        spans: Sequence[tuple[Span, Span] | None],
    ) -> None:
        """spans: of each answer the spans `process` and `send`, None if it is not traced."""
        self.headers = headers
        self._tracer = tracer
        self._spans = spans
        self._acknowledged_at = 0.0

    def acknowledged(self, at: float) -> None:
        """See BatchTraces.acknowledged."""
        self._acknowledged_at = at
        for process, send in filter(None, self._spans):
            send.end(_ns(at))
            process.end(_ns(at))

    def committed(self, at: float) -> None:
        """See BatchTraces.committed."""
        for process, _ in filter(None, self._spans):
            within = trace.set_span_in_context(NonRecordingSpan(process.get_span_context()))
            commit = self._tracer.start_span(
                "commit", within, start_time=_ns(self._acknowledged_at)
            )
            commit.end(_ns(at))

    def exemplar(self, answer: int) -> dict[str, str] | None:
        """See BatchTraces.exemplar."""
        spans = self._spans[answer]
        if spans is None:
            return None
        context = spans[0].get_span_context()
        return {
            "trace_id": trace.format_trace_id(context.trace_id),
            "span_id": trace.format_span_id(context.span_id),
        }


def _headers(span: Span) -> Headers:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span))
    return tuple((name, value.encode()) for name, value in carrier.items())


def _ns(seconds: float) -> int:
    """Seconds since the epoch as OpenTelemetry has them, in nanoseconds."""
    return int(seconds * 1e9)
