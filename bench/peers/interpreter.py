"""Finds a Python interpreter that has both quixstreams and nextclick."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from nextclick.shared.errors import ConfigurationError

MADE_BY_MAKE = Path("build/peers/bin/python")
"""The interpreter that `make bench-peers` makes; quixstreams needs an older librdkafka."""

_PRINT_VERSIONS = """
import importlib.metadata, importlib.util, json
assert importlib.util.find_spec("nextclick.bench.peers")
names = "quixstreams", "confluent-kafka", "pydantic", "torch"
print(json.dumps({name: importlib.metadata.version(name) for name in names}))
"""


def find(given: Path | None) -> Path:
    """The given interpreter, else this one, else the one of `make bench-peers`.

    Raises ConfigurationError if it has no quixstreams.
    """
    candidates = [given] if given is not None else [Path(sys.executable), MADE_BY_MAKE]
    for candidate in candidates:
        python = candidate.absolute()  # not resolve(): in a virtual environment it is a link
        if _installed_versions(python) is not None:
            return python
    raise ConfigurationError(
        f"no quixstreams (and nextclick) for {' or '.join(map(str, candidates))}: run `make "
        "bench-peers`, or give --python of an environment with pip install 'nextclick[peers]'"
    )


def versions(python: Path) -> dict[str, str]:
    """Package → version in an interpreter; raises ConfigurationError if it has no quixstreams."""
    return _installed_versions(find(python)) or {}


def _installed_versions(python: Path) -> dict[str, str] | None:
    # -P: without the current folder on the path, nextclick must be installed.
    try:
        answer = subprocess.run(
            [python, "-P", "-c", _PRINT_VERSIONS],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found: dict[str, str] = json.loads(answer.stdout)
    return found
