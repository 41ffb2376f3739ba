"""Commands of nextclick as processes that start in half a second and can be tampered with.

Torch alone takes two seconds to import. A server process imports everything once, and forks.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

Prepare = Callable[[], None]
"""Run in the process before the command; a module's function or a partial of one."""

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.faults.preloaded"])


def start(
    arguments: Sequence[str],
    environ: dict[str, str],
    log_file: Path,
    prepare: Prepare | None = None,
    error_file: Path | None = None,
) -> ForkServerProcess:
    """Start `nextclick ARGUMENTS`; stderr goes to the log file unless it has one of its own."""
    return call(partial(_command, list(arguments), environ, prepare), log_file, error_file)


def call(
    function: Callable[[], None], log_file: Path, error_file: Path | None = None
) -> ForkServerProcess:
    """Start a process that does one thing: a module's function or a partial of one."""
    process = _CONTEXT.Process(target=_run, args=(function, log_file, error_file), daemon=True)
    process.start()
    return process


class Child:
    """Such a process, to be handled as one of subprocess.Popen's."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        assert process.pid is not None
        self.pid = process.pid

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("nextclick", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _run(function: Callable[[], None], log_file: Path, error_file: Path | None) -> None:
    from nextclick.shared.runtime.heartbeat import HEARTBEAT
    from nextclick.shared.runtime.processes import die_with_parent

    die_with_parent()
    HEARTBEAT.beat()  # it is as old as the process that was forked
    os.chdir(log_file.parent)
    for descriptor, file in ((1, log_file), (2, error_file or log_file)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    function()


def _command(arguments: list[str], environ: dict[str, str], prepare: Prepare | None) -> None:
    os.environ.clear()
    os.environ.update(environ)
    from nextclick import __main__ as cli  # what reads the environment at its import has it now

    if prepare is not None:
        prepare()
    sys.argv = ["nextclick", *arguments]
    cli.main()
