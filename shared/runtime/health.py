"""HTTP server on the metrics port of a process: /metrics, /healthz, /readyz.

    /healthz   200 if the process's loop makes progress, else 503: restart the process
    /readyz    200 if the process can do its work now, else 503: a dependency is unavailable

The answer is a JSON object with an entry for each check: "ok" or the reason of the failure. A check
runs in its own thread, at most once a second, and is waited for at most WAIT_SECONDS: a dependency
that hangs blocks neither the loop nor the client.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from nextclick.shared.errors import ConfigurationError, NextclickError
from nextclick.shared.runtime.metrics import READY

FRESH_SECONDS = 1.0
"""A result is reused for this long."""
WAIT_SECONDS = 2.0
"""A check that takes longer than this has failed."""
_CLIENT_SECONDS = 10.0
"""Read time-out of a connection."""

Check = Callable[[], None]
"""Returns if the check passes; raises NextclickError with the reason if not."""


class Probe:
    """One check, run on demand in its own thread."""

    def __init__(self, check: Check, clock: Callable[[], float] = time.monotonic) -> None:
        self._check = check
        self._clock = clock
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._ended.set()
        self._ended_at: float | None = None
        self._outcome = ""

    def begin(self) -> None:
        """Start the check, unless it is running or its last result is fresh."""
        with self._lock:
            fresh = self._ended_at is not None and self._clock() - self._ended_at < FRESH_SECONDS
            if fresh or not self._ended.is_set():
                return
            self._ended.clear()
            threading.Thread(target=self._run, name="probe", daemon=True).start()

    def result(self, seconds: float) -> str:
        """Wait at most `seconds` for the check; returns "ok" or the reason of the failure."""
        if not self._ended.wait(max(0.0, seconds)):
            return f"no answer within {WAIT_SECONDS:g} s"
        return self._outcome

    def _run(self) -> None:
        try:
            self._check()
            self._outcome = "ok"
        except NextclickError as error:
            self._outcome = str(error)
        except Exception as error:  # a bug in a check: the process is not ready
            self._outcome = repr(error)
        finally:
            self._ended_at = self._clock()
            self._ended.set()


class Probes:
    """The checks of one path."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._probes = {name: Probe(check) for name, check in checks.items()}

    def results(self) -> dict[str, str]:
        """Run all checks in parallel; name → "ok" or the reason, within WAIT_SECONDS."""
        for probe in self._probes.values():
            probe.begin()
        deadline = time.monotonic() + WAIT_SECONDS
        return {
            name: probe.result(deadline - time.monotonic()) for name, probe in self._probes.items()
        }


class HealthServer:
    """Serves HTTP from background threads until closed."""

    def __init__(
        self,
        port: int,
        setting: str,
        *,
        alive: Mapping[str, Check],
        ready: Mapping[str, Check],
        not_deciding: Collection[str] = (),
    ) -> None:
        """Listen on `port` of all interfaces, as prometheus_client does.

        `setting` is the environment variable that holds the port. not_deciding: checks that are
        shown, but do not make the answer 503. Raises ConfigurationError if the port cannot be
        bound.
        """
        self._not_deciding = not_deciding
        self._probes = {"/healthz": Probes(alive), "/readyz": Probes(ready)}
        self._metrics = make_wsgi_app()
        try:
            self._server = make_server("0.0.0.0", port, self._answer, _Server, _Handler)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise ConfigurationError(
                f"{setting} = {port}: {why}; choose another port, or 0 for none"
            ) from None
        self.port = self._server.server_port
        # close() waits for the server's next look: half a second by default.
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="health", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _send(start_response, "405 Method Not Allowed", {"error": "GET only"})
        if path in ("/metrics", "/"):
            for check, outcome in self._probes["/readyz"].results().items():
                READY.labels(check).set(outcome == "ok")
            answer: Iterable[bytes] = self._metrics(environ, start_response)
            return answer
        if path not in self._probes:
            known = ["/metrics", *self._probes]
            return _send(start_response, "404 Not Found", {"error": f"there is {known}"})
        results = self._probes[path].results()
        deciding = results.keys() - self._not_deciding
        healthy = all(results[name] == "ok" for name in deciding)
        return _send(start_response, "200 OK" if healthy else "503 Service Unavailable", results)


def _send(start_response: Callable[..., Any], status: str, body: dict[str, Any]) -> list[bytes]:
    content = (json.dumps(body, indent=1, ensure_ascii=False) + "\n").encode()
    start_response(
        status,
        [
            ("Content-Type", "application/json; charset=utf-8"),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
        ],
    )
    return [content]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = _CLIENT_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: probes come every second."""
