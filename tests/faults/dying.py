"""A process dies at any of the steps by which it changes a folder, or in the middle of a write.

Python tells an audit hook of everything that opens, renames or removes a file just before it is
done; a flush to the disk it does not tell of, so that is wrapped.
"""

from __future__ import annotations

import itertools
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.faults.tampering import die

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_FOLDER_FD = {"os.remove": 1, "os.rmdir": 1, "os.mkdir": 2, "os.rename": 2}
"""Event → which of its arguments is the folder that a relative path starts from."""


NO_LIMIT = resource.RLIM_INFINITY


def at_change(number: int, *folders: Path, steps: Path | None = None) -> None:
    """SIGKILL this process just before it changes the folders for the `number`th time.

    The steps that it gets to are written down in the file `steps`.
    """
    left = number
    notes = None if steps is None else os.open(steps, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def step(what: str, path: str) -> None:
        nonlocal left
        if not any(Path(path) == folder or folder in Path(path).parents for folder in folders):
            return
        if notes is not None:
            os.write(notes, f"{what} {path}\n".encode())
        left -= 1
        if left == 0:
            die()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in _FOLDER_FD:
            path, folder = os.fsdecode(arguments[0]), arguments[_FOLDER_FD[event]]  # type: ignore[arg-type]
            if folder != -1:
                path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
            step(event, path)
        elif event == "open" and not isinstance(arguments[0], int):
            assert isinstance(arguments[2], int)
            if arguments[2] & _WRITING:
                step(event, os.fsdecode(arguments[0]))  # type: ignore[arg-type]

    fsync = os.fsync

    def told_fsync(descriptor: int) -> None:
        step("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    os.fsync = told_fsync  # type: ignore[assignment]
    sys.addaudithook(hook)


def in_mid_write(size: int) -> None:
    """Let the kernel kill this process as soon as a file would get longer than `size`."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def full_at(size: int) -> None:
    """Refuse this process to write more than `size` into a file, as a full disk would."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def refuse_from(process: ForkServerProcess, size: int) -> None:
    """The same for a process that runs; NO_LIMIT: there is space again."""
    assert process.pid is not None
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def deaths(start: Callable[[int], ForkServerProcess]) -> Iterator[int]:
    """Start with 1, 2, 3, …, each time until it has died, up to the number that it survives."""
    for number in itertools.count(1):
        process = start(number)
        process.join(60)
        if process.exitcode == 0:
            return
        assert process.exitcode in (-signal.SIGKILL, -signal.SIGXFSZ), process.exitcode
        yield number
