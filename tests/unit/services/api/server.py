"""An ASGI application on a real socket, with the limits of the HTTP service."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from nextclick.services.api.http_protocol import ConnectionLimits, limited_protocol


@contextlib.contextmanager
def serving(app: ASGIApp, limits: ConnectionLimits) -> Iterator[tuple[str, int]]:
    """Serve in a thread; host and port."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=limited_protocol(limits), log_config=None, lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield listening.getsockname()
    finally:
        server.should_exit = True
        thread.join()
