"""A click's trace: from the sender's span through a real worker to its recommendation."""

from __future__ import annotations

import re
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from nextclick.shared.embedded import free_port
from nextclick.shared.kafka import Publisher, TopicReader
from nextclick.shared.messages import AS_REPLAYED, Message, of_user
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from tests.conftest import Launch
from tests.integration.traffic import Answers, make_clicks, publish_model
from tests.waiting import until

TRACE, SENDER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{SENDER}-01".encode()
NOT_SAMPLED = f"00-{TRACE[::-1]}-{SENDER}-00".encode()


class Collector:
    """A collector's HTTP interface, with the spans that it was sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self._thread.start()

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            self.services |= {
                a.value.string_value
                for a in resource.resource.attributes
                if a.key == "service.name"
            }
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
def test_one_click_is_followed_through_both_topics(
    guarantee: str,
    kafka: KafkaSettings,
    answers: Answers,
    launch: Launch,
    tmp_path: Path,
    collector: Collector,
) -> None:
    publish_model(tmp_path / "registry", seed=1)
    port = free_port()
    launch(
        "worker",
        **{
            f"{PREFIX}TRACING": "true",
            f"{PREFIX}WORKER__GUARANTEE": guarantee,
            f"{PREFIX}WORKER__METRICS_PORT": str(port),
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        },
    )
    clicks = [
        click.model_copy(update={"user_id": f"user-{number}"})
        for number, click in enumerate(make_clicks(3))
    ]
    traced, forwarded, plain = clicks
    headers = {
        traced.event_id: (("traceparent", SAMPLED), ("tracestate", b"shop=1")),
        forwarded.event_id: (("traceparent", NOT_SAMPLED),),
        plain.event_id: (),
    }
    publisher = Publisher(kafka)
    publisher.connect()
    publisher.send(
        of_user(kafka.clicks_topic, c, AS_REPLAYED + headers[c.event_id]) for c in clicks
    )
    publisher.wait_acknowledged()
    answers.wait_for({c.event_id for c in clicks})
    until(lambda: len(collector.spans) >= 6, "all spans")

    spans = {span.name: span for span in collector.spans}
    process = spans[f"process {kafka.clicks_topic}"]
    send = spans[f"send {kafka.recommendations_topic}"]
    assert len(collector.spans) == len(spans) == 6
    assert collector.services == {"nextclick-worker"}
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert process.parent_span_id.hex() == SENDER
    assert process.kind == Span.SPAN_KIND_CONSUMER
    assert send.kind == Span.SPAN_KIND_PRODUCER
    inner = [spans[name] for name in ("decode", "append", "score")] + [send]
    assert {s.parent_span_id for s in (*inner, spans["commit"])} == {process.span_id}
    times = [t for s in inner for t in (s.start_time_unix_nano, s.end_time_unix_nano)]
    assert times == sorted(times)
    assert (times[0], times[-1]) == (process.start_time_unix_nano, process.end_time_unix_nano)
    assert spans["commit"].start_time_unix_nano == process.end_time_unix_nano

    got = {m.key: dict(m.headers) for m in recommendations(kafka)}
    assert got[traced.user_id.encode()] == {
        "traceparent": f"00-{TRACE}-{send.span_id.hex()}-01".encode(),
        "tracestate": b"shop=1",
    }
    assert got[forwarded.user_id.encode()] == {"traceparent": NOT_SAMPLED}
    assert got[plain.user_id.encode()] == {}
    assert exemplars(port) == {(TRACE, process.span_id.hex())}


def test_a_collector_that_is_away_holds_nothing_up(
    kafka: KafkaSettings,
    answers: Answers,
    launch: Launch,
    logs: Callable[[str], str],
    tmp_path: Path,
) -> None:
    publish_model(tmp_path / "registry", seed=1)
    worker = launch(
        "worker",
        **{
            f"{PREFIX}TRACING": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        },
    )
    clicks = make_clicks(50)
    publisher = Publisher(kafka)
    publisher.connect()
    traced = (*AS_REPLAYED, ("traceparent", SAMPLED))
    publisher.send(of_user(kafka.clicks_topic, click, traced) for click in clicks)
    publisher.wait_acknowledged()
    answers.wait_for({c.event_id for c in clicks})
    worker.terminate()
    assert worker.wait(10) == 0, logs("worker")
    assert "Traceback" not in logs("worker")


def recommendations(kafka: KafkaSettings) -> list[Message]:
    found: list[Message] = []

    def are_three() -> bool:
        found.extend(reader.poll(10, 0.1))
        return len(found) == 3

    with closing(TopicReader(kafka, [kafka.recommendations_topic])) as reader:
        until(are_three, "the recommendations")
    return found


def exemplars(port: int) -> set[tuple[str, str]]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Accept": "application/openmetrics-text"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        text = answer.read().decode()
    pattern = r'nextclick_click_to_acknowledged_seconds_bucket.*span_id="(\w+)",trace_id="(\w+)"'
    return {(trace, span) for span, trace in re.findall(pattern, text)}
