"""Writing into a folder on a disk so that what is there is whole, whenever the writer dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path


def replace(path: Path, content: bytes) -> None:
    """Write a file, or put it in the place of the one that is there, in one step."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        _write_durably(temporary, content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def add(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files, in one step."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.mkdir()
    try:
        for name, content in files.items():
            _write_durably(temporary / name, content)
        _sync(temporary)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync(path.parent)


@contextlib.contextmanager
def exclusive_lock(folder: Path) -> Iterator[bool]:
    """Let nobody else in here meanwhile, by a lock on the folder; gives whether we have it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            locked = True
        except OSError:  # some network file systems have none
            locked = False
        yield locked
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, *patterns: str) -> None:
    """Remove what writers that were killed left behind, by these names too.

    Hold `exclusive_lock` meanwhile.
    """
    for pattern in (".*.tmp", *patterns):
        for leftover in folder.glob(pattern):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    leftover.unlink()


def _write_durably(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
