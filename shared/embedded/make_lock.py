"""Resolves the jars of a Kafka version and writes kafka-jars.toml, or another lock file.

`python -m nextclick.shared.embedded.make_lock 4.1.0`
`python -m nextclick.shared.embedded.make_lock 3.9.1 tests/kafka-3.9-jars.toml`

Needed only to change the version. The checksums are computed from what the Maven repository serves
now; compare them with another source before you commit them.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

from jgo.maven import MavenContext

from nextclick.shared.embedded.jars import LOCK_FILE

LOGGER = "org.slf4j:slf4j-simple:1.7.36"
"""Kafka comes without a logging backend; this one writes warnings to the server's log file."""


def main(kafka_version: str, lock_file: Path | str = LOCK_FILE) -> None:
    """Write the lock file for a version."""
    with tempfile.TemporaryDirectory() as folder:
        maven = MavenContext(repo_cache=Path(folder))
        wanted = [f"org.apache.kafka:kafka_2.13:{kafka_version}", LOGGER]
        inputs, transitive = maven.resolver.resolve([maven.create_dependency(c) for c in wanted])
        artifacts = {
            f"{d.groupId}:{d.artifactId}:{d.version}": d.artifact
            for d in [*inputs, *transitive]
            if d.type == "jar" and d.scope in (None, "compile", "runtime")
        }
        lines = [
            "# Written by `python -m nextclick.shared.embedded.make_lock`: "
            "Kafka and all that it needs.",
            f'kafka_version = "{kafka_version}"',
            "jars = [",
        ]
        for coordinates in sorted(artifacts):
            content = artifacts[coordinates].resolve().read_bytes()
            checksum = hashlib.sha256(content).hexdigest()
            size = len(content)
            lines.append(
                f'  {{ coordinates = "{coordinates}", {size = }, sha256 = "{checksum}" }},'
            )
        Path(lock_file).write_text("\n".join([*lines, "]", ""]))


if __name__ == "__main__":
    main(*sys.argv[1:])
