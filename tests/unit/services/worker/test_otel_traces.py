from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nextclick.services.worker.otel_traces import ClickTracer
from nextclick.services.worker.traces import Forwarded, forward
from nextclick.shared.messages import Message

DONE_AT = {"polled": 10.0, "decoded": 11.0, "appended": 12.0, "scored": 13.0}
TRACE, SENDER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def message(flags: str = "", state: bytes = b"a=b") -> Message:
    parent = f"00-{TRACE}-{SENDER}-{flags}".encode()
    headers = (("traceparent", parent), ("tracestate", state)) if flags else ()
    return Message("clicks", 3, 17, None, None, headers)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def trace(exporter: InMemorySpanExporter) -> ClickTracer:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return ClickTracer(provider.get_tracer("test"), "workers", "recommendations")


def test_without_tracing_contexts_are_handed_on() -> None:
    batch = forward([message("01"), message("00"), message()], DONE_AT)
    assert isinstance(batch, Forwarded)
    assert batch.headers == [message("01").headers, message("00").headers, ()]
    assert batch.exemplar(0) is None


def test_only_sampled_clicks_have_spans(trace: ClickTracer, exporter: InMemorySpanExporter) -> None:
    batch = trace([message(), message("00"), message("01")], DONE_AT)
    batch.acknowledged(14.0)
    batch.committed(15.0)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {
        "process clicks",
        "decode",
        "append",
        "score",
        "send recommendations",
        "commit",
    }
    assert [batch.exemplar(0), batch.exemplar(1)] == [None, None]
    context = spans["process clicks"].context
    assert context is not None
    assert batch.exemplar(2) == {"trace_id": TRACE, "span_id": f"{context.span_id:016x}"}
    assert batch.headers[0] == ()
    assert batch.headers[1] == message("00").headers
    attributes = spans["process clicks"].attributes
    assert attributes is not None
    assert attributes["messaging.kafka.offset"] == 17
    assert attributes["messaging.destination.partition.id"] == "3"
    assert attributes["messaging.consumer.group.name"] == "workers"


def test_times_are_those_of_the_steps(trace: ClickTracer, exporter: InMemorySpanExporter) -> None:
    batch = trace([message("01")], DONE_AT)
    batch.acknowledged(14.0)
    batch.committed(15.0)
    seconds = {
        span.name: (span.start_time / 1e9, span.end_time / 1e9)
        for span in exporter.get_finished_spans()
        if span.start_time and span.end_time
    }
    assert seconds == {
        "process clicks": (10, 14),
        "decode": (10, 11),
        "append": (11, 12),
        "score": (12, 13),
        "send recommendations": (13, 14),
        "commit": (14, 15),
    }


def test_what_is_never_acknowledged_leaves_no_span_of_an_answer(
    trace: ClickTracer, exporter: InMemorySpanExporter
) -> None:
    trace([message("01")], DONE_AT)
    assert [s.name for s in exporter.get_finished_spans()] == ["decode", "append", "score"]
