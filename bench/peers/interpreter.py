"""The interpreter that the twin runs in: one that has quixstreams beside nextclick."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from nextclick.shared.errors import ConfigurationError

OWN = Path("build/peers/bin/python")
"""Where `make bench-peers` puts one: quixstreams wants an older librdkafka than ours."""

_ASK = """
import importlib.metadata, importlib.util, json
assert importlib.util.find_spec("nextclick.bench.peers")
names = "quixstreams", "confluent-kafka", "pydantic", "torch"
print(json.dumps({name: importlib.metadata.version(name) for name in names}))
"""


def find(given: Path | None) -> Path:
    """The interpreter given, else this one, else the one of `make bench-peers`.

    Raises ConfigurationError if quixstreams is not there.
    """
    candidates = [given] if given is not None else [Path(sys.executable), OWN]
    for candidate in candidates:
        python = candidate.absolute()  # not resolved: a virtual environment's is a link
        if _ask(python) is not None:
            return python
    raise ConfigurationError(
        f"no quixstreams (and nextclick) for {' or '.join(map(str, candidates))}: run `make "
        "bench-peers`, or give --python of an environment with pip install 'nextclick[peers]'"
    )


def versions(python: Path) -> dict[str, str]:
    """What is installed for that interpreter; raises ConfigurationError if quixstreams is not."""
    return _ask(find(python)) or {}


def _ask(python: Path) -> dict[str, str] | None:
    # -P: it must find nextclick from any folder.
    try:
        answer = subprocess.run(
            [python, "-P", "-c", _ASK], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found: dict[str, str] = json.loads(answer.stdout)
    return found
