"""Reads a plain or packed file (gzip, bzip2, xz, zstd, zip) as numbered lines of text."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from nextclick.services.replay.formats import Line
from nextclick.services.replay.sources import reason
from nextclick.shared.data_problems import Problems
from nextclick.shared.errors import ConfigurationError

_GZIP, _ZSTD, _BZIP2 = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh"
_XZ, _ZIP, _ORC = b"\xfd7zXZ", b"PK\x03\x04", b"ORC"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_lines(file: BinaryIO, name: str, encoding: str, problems: Problems) -> Iterator[Line]:
    """The non-blank lines of a file, decompressed; they end with LF, CR LF, or CR.

    name: for messages. A line in another encoding is left out and recorded as a problem. Raises
    ConfigurationError with the last good line if the file cannot be read to its end.
    """
    number = 0
    try:
        codecs.lookup(encoding)
        for content in _lines_of(_unpacked(file, name)):
            number += 1
            if number == 1:
                if content.startswith(_UTF16) and not encoding.lower().startswith("utf-16"):
                    raise ConfigurationError(
                        f"{name} is UTF-16: convert it, for example with iconv -f utf-16 -t utf-8"
                    )
                content = content.removeprefix(codecs.BOM_UTF8)
            try:
                text = content.decode(encoding).rstrip("\r\n")
            except UnicodeDecodeError:
                what = f"line that is not {encoding}"
                problems.add(name, what, "left out; see --encoding", number)
                continue
            if text.strip():
                yield Line(number, text)
    except LookupError:
        raise ConfigurationError(f"--encoding {encoding}: there is no such encoding") from None
    except (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        where = f", after line {number:,}" if number else ""
        why = "it is cut short" if isinstance(error, EOFError) else reason(error)
        raise ConfigurationError(f"{name} cannot be read{where}: {why}") from None


def _lines_of(file: BinaryIO) -> Iterator[bytes]:
    for content in file:
        if b"\r" in content[:-2]:  # CR alone between lines, as on old Macs
            yield from content.splitlines()
        else:
            yield content


def _unpacked(file: BinaryIO, name: str) -> BinaryIO:
    """The content of a seekable file, decompressed as its first bytes say.

    Raises OSError, or ConfigurationError for ORC and for a zip that does not hold exactly one file.
    """
    first_bytes = file.read(6)
    file.seek(0)
    if first_bytes.startswith(_GZIP):
        return gzip.open(file, "rb")  # type: ignore[return-value]
    if first_bytes.startswith(_ZSTD):
        return io.BufferedReader(pa.CompressedInputStream(file, "zstd"))
    if first_bytes.startswith(_BZIP2):
        return bz2.open(file, "rb")  # type: ignore[return-value]
    if first_bytes.startswith(_XZ):
        return lzma.open(file, "rb")  # type: ignore[return-value]
    if first_bytes.startswith(_ZIP):
        archive = zipfile.ZipFile(file)
        files = [entry for entry in archive.infolist() if not entry.is_dir()]
        if len(files) != 1:
            raise ConfigurationError(f"{name} holds {len(files)} files; give a zip with one")
        return archive.open(files[0])  # type: ignore[return-value]
    if first_bytes.startswith(_ORC):
        raise ConfigurationError(f"{name} is ORC; convert it to Parquet")
    return file
