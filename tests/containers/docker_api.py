"""Run a command whose testcontainers find the engine.

`python -m tests.containers.docker_api COMMAND`

With Docker that is the command alone. podman has Docker's API, too: in a process that is started
for the command.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nextclick.shared.runtime import processes
from tests.containers.engine import NoEngine, find_engine
from tests.waiting import until


@contextmanager
def docker_api() -> Iterator[dict[str, str]]:
    """Yield the environment variables by which testcontainers finds the engine."""
    if find_engine().program == "docker":
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        socket, log = Path(folder) / "podman.sock", Path(folder) / "podman.log"
        service = processes.spawn(
            ["podman", "system", "service", "--time", "0", f"unix://{socket}"], log
        )
        try:
            until(lambda: socket.exists() or service.poll() is not None, "podman's socket", 20)
            if service.poll() is not None:
                raise NoEngine(f"podman has no API here: {log.read_text()[-500:]}")
            # Ryuk, which removes what a killed test leaves behind, wants the socket of a daemon.
            yield {"DOCKER_HOST": f"unix://{socket}", "TESTCONTAINERS_RYUK_DISABLED": "true"}
        finally:
            processes.stop(service)


def main(command: list[str]) -> int:
    """Run the command; returns its exit code."""
    try:
        with docker_api() as variables:
            return subprocess.run(command, env={**os.environ, **variables}, check=False).returncode
    except NoEngine as error:
        print(f"container tests: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
