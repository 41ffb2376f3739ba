"""Reads a plain, gzip or zstd file as numbered lines of text."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from nextclick.shared.data_problems import Problems
from nextclick.shared.errors import ConfigurationError

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Line(NamedTuple):
    """One line, without its line break; numbers start at 1."""

    number: int
    text: str


def read_lines(path: Path, encoding: str, problems: Problems) -> Iterator[Line]:
    """The non-blank lines of a file; gzip and zstd are decompressed.

    A line in another encoding is left out and recorded as a problem. Raises ConfigurationError with
    the last good line if the file cannot be read to its end.
    """
    number = 0
    try:
        codecs.lookup(encoding)
        with open_binary(path) as file:
            for content in file:
                number += 1
                if number == 1:
                    if content.startswith(_UTF16) and not encoding.lower().startswith("utf-16"):
                        raise ConfigurationError(
                            f"{path} is UTF-16: convert it, for example with "
                            f"iconv -f utf-16 -t utf-8"
                        )
                    content = content.removeprefix(codecs.BOM_UTF8)
                try:
                    text = content.decode(encoding).rstrip("\r\n")
                except UnicodeDecodeError:
                    what = f"line that is not {encoding}"
                    problems.add(path.name, what, "left out; see --encoding", number)
                    continue
                if text.strip():
                    yield Line(number, text)
    except LookupError:
        raise ConfigurationError(f"--encoding {encoding}: there is no such encoding") from None
    except (EOFError, OSError, zlib.error) as error:
        where = f", after line {number:,}" if number else ""
        raise ConfigurationError(f"{path} cannot be read{where}: {_reason(error)}") from None


def open_binary(path: Path) -> BinaryIO:
    """Open a file, decompressing gzip and zstd by their magic numbers. Raises OSError."""
    with path.open("rb") as file:
        first_bytes = file.read(4)
    if first_bytes.startswith(_GZIP):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if first_bytes.startswith(_ZSTD):
        return io.BufferedReader(pa.CompressedInputStream(path.open("rb"), "zstd"))
    return path.open("rb")


def _reason(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "it is cut short"
    return getattr(error, "strerror", None) or str(error)
