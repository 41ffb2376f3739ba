"""OpenTelemetry, for the traces of clicks; needs `pip install nextclick[tracing]`.

What is sent where is set by OpenTelemetry's own variables, such as `OTEL_EXPORTER_OTLP_ENDPOINT`:
https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Tracer

SHUTDOWN_SECONDS = 2.0
"""At the end, the last spans have this long to be sent."""


@contextlib.contextmanager
def open_tracer(service: str) -> Iterator[Tracer]:
    """A tracer that sends spans by OTLP over HTTP, from a thread of its own.

    A collector that is away or slow delays nothing: spans are dropped when 2,048 of them wait
    (`OTEL_BSP_MAX_QUEUE_SIZE`). service: `service.name`, unless `OTEL_SERVICE_NAME` names it.
    """
    name = os.environ.get("OTEL_SERVICE_NAME", service)
    provider = TracerProvider(
        resource=Resource.create({"service.name": name}), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield provider.get_tracer("nextclick")
    finally:
        # The processor itself would wait for up to 30 s.
        ending = threading.Thread(target=provider.shutdown, name="end of traces", daemon=True)
        ending.start()
        ending.join(SHUTDOWN_SECONDS)
