"""An open-loop HTTP client: `python -m nextclick.bench.http_client ADDRESS --rate … < REQUESTS`.

Requests are due at random moments (a Poisson process), whether or not the ones before them have
been answered, as those of many shoppers are. Latency counts from the moment a request was due. The
usual tools wait for an answer before they send again, so a slow server makes them ask less often.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from typing import cast
from urllib.parse import urlsplit

import numpy as np
import uvloop

_LATE_SECONDS = 10.0
"""After the last request was due, answers are waited for so long."""


class Connection(asyncio.Protocol):
    """One keep-alive connection, with at most one request in progress."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._received = b""
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready for requests."""
        self._transport = cast(asyncio.Transport, transport)
        self._client.free.append(self)

    def send(self, request: bytes, due: float) -> None:
        """Send a request that was due at `due`."""
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Wait for the end of the response."""
        self._received += data
        head, _, body = self._received.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if len(body) < int(fields.get(b"content-length", 1 << 60)):
            return
        self._received = b""
        self._client.answered(self, self._due, int(head.split(b" ", 2)[1]))


class Client:
    """Sends requests in turn at given moments, over as many connections as needed up to a limit."""

    def __init__(self, requests: Sequence[bytes], due: np.ndarray) -> None:
        """due: seconds from the start, ascending."""
        self._requests = requests
        self._due: list[float] = due.tolist()
        self._next = 0
        self._done = asyncio.Event()
        self.free: list[Connection] = []
        self.latencies: list[float] = []
        self.failures = 0

    async def run(self, host: str, port: int, connections: int) -> None:
        """Send every request and wait for the answers."""
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            await loop.create_connection(lambda: Connection(self), host, port)
        began = time.perf_counter()
        self._due = [began + due for due in self._due]
        await asyncio.to_thread(self._wake, loop)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._done.wait(), _LATE_SECONDS)
        self.failures += len(self._due) - len(self.latencies)

    def answered(self, connection: Connection, due: float, status: int) -> None:
        """Count an answer; the connection is free again."""
        self.latencies.append(time.perf_counter() - due)
        self.failures += not 200 <= status < 300
        self.free.append(connection)
        if len(self.latencies) == len(self._due):
            self._done.set()
        self._send_due()

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have each request sent when it is due. A loop's own timers are up to 1 ms late."""
        for due in self._due:
            time.sleep(max(0.0, due - time.perf_counter()))
            loop.call_soon_threadsafe(self._send_due)

    def _send_due(self) -> None:
        now = time.perf_counter()
        while self.free and self._next < len(self._due) and self._due[self._next] <= now:
            request = self._requests[self._next % len(self._requests)]
            self.free.pop().send(request, self._due[self._next])
            self._next += 1


def main() -> None:
    """Ask and print the latencies in milliseconds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="http://host:port; standard input: [[path, body], …]")
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    url = urlsplit(options.address)
    requests = [_request(url.netloc, path, body) for path, body in json.load(sys.stdin)]
    count = int(options.rate * options.seconds)
    gaps = np.random.default_rng(0).exponential(1 / options.rate, count)
    client = Client(requests, gaps.cumsum())
    assert url.hostname is not None
    assert url.port is not None
    uvloop.run(client.run(url.hostname, url.port, options.connections))
    p50, p90, p99 = (1000 * np.percentile(client.latencies, [50, 90, 99])).tolist()
    figures = {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "failures": client.failures}
    print(json.dumps({"answered": len(client.latencies), **figures}))


def _request(host: str, path: str, body: str) -> bytes:
    """The bytes of a POST of JSON; of a GET if the body is empty."""
    head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nhost: {host}\r\n"
    if body:
        head += f"content-type: application/json\r\ncontent-length: {len(body.encode())}\r\n"
    return f"{head}\r\n{body}".encode()


if __name__ == "__main__":
    main()
