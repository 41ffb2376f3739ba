"""Many open pages on a real server: all are served, and memory stays flat."""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from nextclick.shared.runtime.settings import PREFIX
from tests.conftest import Launch
from tests.faults.stand import memory_mb, open_files
from tests.integration.traffic import publish_model
from tests.waiting import until

STREAMS = 300
SECONDS = 30
MORE_MB = 15


def listening(tmp_path: Path) -> str:
    found = re.search(r"listening on (http://[^\s\"]+)", (tmp_path / "api-0.log").read_text())
    return found[1] if found else ""


def is_ready(address: str) -> bool:
    """Whether the model is loaded, which takes memory, too."""
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"{address}/readyz", timeout=10) as answer,
    ):
        return bool(answer.status == 200)
    return False


def open_stream(address: str) -> socket.socket:
    url = urlsplit(address)
    assert url.hostname is not None
    connection = socket.create_connection((url.hostname, url.port or 80))
    connection.sendall(f"GET /page/events HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n".encode())
    return connection


def read_for(seconds: float, streams: list[socket.socket]) -> list[int]:
    """Read all streams; returns how many events each has got."""
    events = dict.fromkeys(streams, 0)
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                assert isinstance(key.fileobj, socket.socket)
                read = key.fileobj.recv(1_000_000)
                assert read, "the server has closed a stream"
                events[key.fileobj] += read.count(b"retry: ")
    return list(events.values())


@pytest.mark.long
def test_many_pages_are_served_and_memory_stays_flat(launch: Launch, tmp_path: Path) -> None:
    publish_model(tmp_path / "registry", seed=1)
    process = launch("api", **{f"{PREFIX}API__PORT": "0"})
    until(lambda: listening(tmp_path), "it listens")
    until(lambda: is_ready(listening(tmp_path)), "it is ready")
    files = open_files(process.pid)
    streams = [open_stream(listening(tmp_path)) for _ in range(STREAMS)]
    try:
        assert min(read_for(SECONDS / 2, streams)) >= 3  # all are open, and served
        before = memory_mb(process.pid)
        assert min(read_for(SECONDS, streams)) >= SECONDS / 5  # one a second, on an idle machine
        assert memory_mb(process.pid) - before < MORE_MB
    finally:
        for stream in streams:
            stream.close()
    # Some fifty are left: connections to Kafka, to follow the topics.
    until(lambda: open_files(process.pid) < files + STREAMS / 3, "the streams are closed")
