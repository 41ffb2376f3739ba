"""What the benches' options have in common: sizes to read, a file to write."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from shared.errors import ConfigurationError

_SUFFIXES = {"": 1, "k": 1_000, "m": 1_000_000}


def sizes(option: str, listed: str) -> list[int]:
    """Read "50,10k,1M"; raises ConfigurationError that names the option."""
    found = []
    for part in listed.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*([kKmM]?)\s*", part)
        size = int(match[1]) * _SUFFIXES[match[2].lower()] if match else 0
        if size < 1:
            raise ConfigurationError(f"{option} {listed}: {part.strip()!r} is no size; use 50,10k")
        found.append(size)
    return found


def check_folder(file: Path | None, option: str = "--json") -> None:
    """Raise ConfigurationError now rather than after minutes if a file cannot be written."""
    if file is not None and not file.absolute().parent.is_dir():
        raise ConfigurationError(f"{option} {file}: the folder does not exist")


def write(file: Path, rows: list[Any], device: Any) -> None:
    """Write numbers (dataclasses) with the machine and the versions they belong to."""
    from dataclasses import asdict

    from trainer.report.environment import environment

    document = {"environment": environment(device), "rows": [asdict(row) for row in rows]}
    try:
        file.write_text(json.dumps(document, indent=2), "utf-8")
    except OSError as error:
        raise ConfigurationError(f"--json {file} cannot be written ({error})") from None
