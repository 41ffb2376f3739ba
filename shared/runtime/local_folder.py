"""Atomic and durable writes into a local folder: a killed writer leaves no partial file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path


def replace(path: Path, content: bytes) -> None:
    """Write or replace a file atomically."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        _write_durably(temporary, content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def add(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a new folder of files atomically. files: name → content."""
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
    """Lock a folder against other processes; yields whether the lock is held."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            locked = True
        except OSError:  # some network file systems have no locks
            locked = False
        yield locked
    finally:
        os.close(descriptor)


def remove(folder: Path) -> None:
    """Remove a folder at once for readers of its name; what a crash leaves is a leftover."""
    going = folder.with_name(f".{folder.name}.tmp")
    folder.rename(going)
    shutil.rmtree(going)


def remove_leftovers(folder: Path, *patterns: str) -> None:
    """Remove temporary files and folders of killed writers, and files that match `patterns`.

    The caller must hold `exclusive_lock`.
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
