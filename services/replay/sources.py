"""Where clicks are read from: a file, a folder, a pattern, standard input, or any fsspec URL."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import BinaryIO

import fsspec

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.object_store import storage_errors

STANDARD_INPUT = "-"
_WILDCARD = re.compile(r"[*?\[]")
IN_MEMORY = 64 * 2**20
"""Bytes of standard input that are held in memory; more are in a temporary file."""


@dataclass(frozen=True)
class Source:
    """One file of clicks."""

    name: str
    """Short and unique among those that are read together: within a folder the path from there."""
    _open: Callable[[], BinaryIO]
    _errors: tuple[type[Exception], ...] = (OSError,)

    def open(self) -> BinaryIO:
        """Open it, undecompressed and seekable. Raises ConfigurationError."""
        try:
            return self._open()
        except self._errors as error:
            raise ConfigurationError(f"{self.name} cannot be read: {reason(error)}") from None


def find_sources(data: Sequence[str]) -> list[Source]:
    """The files that the texts name, in their order, and within a folder by name.

    Raises ConfigurationError if one of them names no file; see `_find`.
    """
    found = [(text, source) for text in data for source in _find(text)]
    uses = Counter(source.name for _, source in found)
    return [
        source if uses[source.name] == 1 else replace(source, name=f"{text}:{source.name}")
        for text, source in found
    ]


def _find(data: str) -> list[Source]:
    """The files that one text names, in the order of their names.

    data: a path or an fsspec URL (`s3://bucket/clicks.csv`) of a file, of a folder, or a pattern
    with `*`, `?` or `[…]`; or `-`. In a folder, files and folders whose names begin with `.` or `_`
    are left out, as by Spark and Hive. Raises ConfigurationError if there is no file.
    """
    if data == STANDARD_INPUT:
        return [Source("standard input", _open_standard_input)]
    try:
        fs, path = fsspec.core.url_to_fs(data)
    except (ValueError, ImportError) as error:
        raise ConfigurationError(f"{data} cannot be read: {error}") from None
    errors: tuple[type[Exception], ...] = (OSError, *storage_errors(fs))
    try:
        if fs.isfile(path):
            return [Source(PurePosixPath(path).name, partial(fs.open, path, "rb"), errors)]
        if fs.isdir(path):
            folder, found = path.rstrip("/"), fs.find(path)
        elif wildcard := _WILDCARD.search(path):
            folder = path[: wildcard.start()].rpartition("/")[0]
            found = [match for match in fs.glob(path) if fs.isfile(match)]
        else:
            raise ConfigurationError(f"{data}: there is no such file")
    except errors as error:
        raise ConfigurationError(f"{data} cannot be read: {reason(error)}") from None
    named = {file.removeprefix(f"{folder}/"): file for file in sorted(found)}
    sources = [
        Source(name, partial(fs.open, file, "rb"), errors)
        for name, file in named.items()
        if not any(part.startswith((".", "_")) for part in name.split("/"))
    ]
    if not sources:
        raise ConfigurationError(f"{data}: there is no file")
    return sources


def _open_standard_input() -> BinaryIO:
    copy = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 the reader closes it
    shutil.copyfileobj(sys.stdin.buffer, copy)
    copy.seek(0)
    return copy  # type: ignore[return-value]


def reason(error: Exception) -> str:
    """Why reading failed, without number and path."""
    return getattr(error, "strerror", None) or str(error)
