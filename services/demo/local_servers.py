"""Starts Kafka, Redis and nextclick processes on this machine, for the demo and benchmarks."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console

from nextclick.shared import embedded
from nextclick.shared.errors import ConfigurationError, NextclickError
from nextclick.shared.runtime import processes
from nextclick.shared.runtime.settings import PREFIX

START_SECONDS = 60.0
STOP_SECONDS = 60.0
"""Long, because a trainer at the lowest priority may need it on a busy machine."""


@contextlib.contextmanager
def servers(folder: Path, *, long_lived: bool = True) -> Iterator[dict[str, str]]:
    """Start Kafka and Redis; yields the environment variables for processes that use them.

    NEXTCLICK_ settings of the caller's environment are not passed on, except the device.
    `long_lived`: see embedded.start_kafka.
    """
    kafka = embedded.start_kafka(folder, long_lived=long_lived)
    try:
        redis = embedded.start_redis(folder)
        try:
            yield {
                **{k: v for k, v in os.environ.items() if not k.startswith(PREFIX)},
                f"{PREFIX}DEVICE": os.environ.get(f"{PREFIX}DEVICE", "auto"),
                f"{PREFIX}LOG_FORMAT": "text",  # for show_logs
                f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS": kafka.address,
                f"{PREFIX}REDIS__URL": f"redis://{redis.address}/0",
                f"{PREFIX}REGISTRY__URL": str(folder / "registry"),
                f"{PREFIX}TRAINER__EVENT_LOG": str(folder / "event_log"),
            }
        finally:
            redis.kill()
    finally:
        kafka.kill()


def serve(env_file: Path, console: Console, stop: threading.Event) -> None:
    """Run the servers until `stop`; `env_file` holds the settings to use them, for a shell.

    The registry and the event log are folders beside that file, and are kept. Raises
    ConfigurationError if the file cannot be written, or is that of servers that run.
    """
    if (address := _kafka_that_runs(env_file)) is not None:
        raise ConfigurationError(
            f"--env {env_file} is that of servers that run, Kafka on {address}: use these "
            f"(. {env_file}), or name another file"
        )
    folder = Path(tempfile.mkdtemp(prefix="nextclick-servers-"))
    try:
        with servers(folder) as environ:
            kept_folder = env_file.absolute().parent
            settings = {k: v for k, v in environ.items() if k.startswith(PREFIX)}
            settings[f"{PREFIX}REGISTRY__URL"] = str(kept_folder / "registry")
            settings[f"{PREFIX}TRAINER__EVENT_LOG"] = str(kept_folder / "event_log")
            lines = [f"export {name}={shlex.quote(value)}\n" for name, value in settings.items()]
            content = "".join(lines)
            try:
                env_file.write_text(content)
            except OSError as error:
                raise ConfigurationError(
                    f"--env {env_file} cannot be written ({error.strerror})"
                ) from None
            console.print(f"Kafka and Redis are up. In other terminals: . {env_file}", markup=False)
            stop.wait()
            with contextlib.suppress(OSError):
                if env_file.read_text() == content:
                    env_file.unlink()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _kafka_that_runs(env_file: Path) -> str | None:
    """The address of the Kafka that a file of settings names, if something listens there."""
    try:
        found = re.search(rf"{PREFIX}KAFKA__BOOTSTRAP_SERVERS=(\S+):(\d+)", env_file.read_text())
    except OSError:
        return None
    if found is None:
        return None
    with contextlib.suppress(OSError), socket.create_connection((found[1], int(found[2])), 1.0):
        return f"{found[1]}:{found[2]}"
    return None


class Processes:
    """A group of nextclick processes, each with a log file in a folder."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self._folder = folder
        self._environ = environ
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self,
        name: str,
        arguments: list[str],
        settings: Mapping[str, str] | None = None,
        background: bool = False,
        module: str = "nextclick",
        python: Path | None = None,
    ) -> None:
        """Start `python -m MODULE ARGUMENTS`. background: see processes.spawn."""
        self._running[name] = processes.spawn(
            [str(python or sys.executable), "-m", module, *arguments],
            self._folder / f"{name}.log",
            environ={**self._environ, **(settings or {})},
            background=background,
        )

    def check(self) -> None:
        """Raise NextclickError if a process has exited with an error."""
        for name, process in self._running.items():
            if process.poll() not in (None, 0):
                raise NextclickError(f"the {name} process died with exit code {process.poll()}")

    def wait_for_partitions(self) -> None:
        """Wait until every consumer owns partitions; clicks must not start before that."""
        for name in self._running:
            self.wait_for(name, r"assigned partitions \[(\d)")

    def wait_for(self, name: str, pattern: str) -> str:
        """Wait until the log of a process matches a pattern; returns its first group.

        Raises NextclickError after START_SECONDS, or if a process has exited with an error.
        """
        deadline = time.monotonic() + START_SECONDS
        while (found := re.search(pattern, self._log(name))) is None:
            self.check()
            if time.monotonic() > deadline:
                raise NextclickError(f"{name} was not ready within {START_SECONDS:.0f} s")
            time.sleep(0.1)
        return found[1]

    def pid(self, name: str) -> int:
        """The process id."""
        return self._running[name].pid

    def ended(self, name: str) -> bool:
        """Whether a process has exited."""
        return self._running[name].poll() is not None

    def stop(self, name: str) -> None:
        """Terminate a process; raises NextclickError if its exit code is not 0."""
        code = processes.stop(self._running.pop(name), STOP_SECONDS)
        if code != 0:
            raise NextclickError(f"the {name} process ended with exit code {code}")

    def stop_all(self) -> None:
        """Stop all processes, one after the other, in the order of their start."""
        for name in list(self._running):
            self.stop(name)

    def kill_all(self) -> None:
        """Send SIGKILL to all processes that still run."""
        for process in self._running.values():
            process.kill()
            process.wait()
        self._running.clear()

    def _log(self, name: str) -> str:
        path = self._folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def show_logs(self, console: Console) -> None:
        """Print the end of the log of each process that was not stopped."""
        for name in self._running:
            console.rule(f"log of {name}")
            console.print(self._log(name)[-2000:], markup=False)
