"""Child processes that never outlive their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """On Linux: the kernel kills this process if the thread that started it dies first."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def spawn(
    command: Sequence[str],
    log_file: Path,
    *,
    environ: Mapping[str, str] | None = None,
    background: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a process whose output is appended to `log_file`.

    It gets its own session, so that Ctrl-C reaches only the parent, which then stops its children
    in order. On Linux the kernel kills it if the calling thread dies first. A `background` process
    runs at the lowest scheduling priority, so that a fit does not add to the latency of others.
    """

    def in_child() -> None:
        die_with_parent()
        if background:
            if sys.platform == "linux":
                os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            else:
                os.nice(19)

    with open(log_file, "ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log_file.parent,
            env=dict(environ) if environ is not None else None,
            start_new_session=True,
            preexec_fn=in_child,
        )


def stop(process: subprocess.Popen[bytes], timeout: float = 15.0) -> int:
    """Terminate a process, kill it after `timeout` seconds; returns its exit code."""
    process.terminate()
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
