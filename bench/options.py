"""Helpers for the options of benchmarks: parse lists, write the JSON file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from nextclick.shared.errors import ConfigurationError

Choice = TypeVar("Choice", bound=str)

_SUFFIXES = {"": 1, "k": 1_000, "m": 1_000_000}


def parse_sizes(option: str, listed: str) -> list[int]:
    """Parse "50,10k,1M"; raises ConfigurationError that names the option."""
    found = []
    for part in listed.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*([kKmM]?)\s*", part)
        size = int(match[1]) * _SUFFIXES[match[2].lower()] if match else 0
        if size < 1:
            raise ConfigurationError(
                f"{option} {listed}: {part.strip()!r} is not a size; use for example 50,10k"
            )
        found.append(size)
    return found


def check_folder(file: Path | None, option: str = "--json") -> None:
    """Raise ConfigurationError if the folder of an output file is missing, before the run."""
    if file is not None and not file.absolute().parent.is_dir():
        raise ConfigurationError(f"{option} {file}: the folder does not exist")


def parse_choices(option: str, listed: str, known: Sequence[Choice]) -> list[Choice]:
    """Parse "one,other"; raises ConfigurationError that lists the known values."""
    found = []
    for part in listed.split(","):
        match = next((choice for choice in known if choice == part.strip()), None)
        if match is None:
            raise ConfigurationError(
                f"{option} {listed}: {part.strip()!r} is none of {', '.join(known)}"
            )
        found.append(match)
    return found


def write_json(file: Path, rows: Sequence[Any], device: Any, **facts: Any) -> None:
    """Write rows (dataclasses) as JSON, with versions, machine, and additional `facts`."""
    from dataclasses import asdict

    from nextclick.trainer.compare.report.environment import environment

    rows_as_json = [asdict(row) for row in rows]
    document = {"environment": environment(device), **facts, "rows": rows_as_json}
    try:
        file.write_text(json.dumps(document, indent=2), "utf-8")
    except OSError as error:
        raise ConfigurationError(f"--json {file} cannot be written ({error})") from None
