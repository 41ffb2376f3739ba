"""Make a KAFKA_HOME from a lock file: `python -m tests.kafka_home LOCK_FILE FOLDER`.

Tests start the Kafka of the environment variable KAFKA_HOME, if it is set, in the place of ours.
"""

from __future__ import annotations

import sys
from pathlib import Path

from nextclick.shared.embedded.jars import fetch, read_lock


def main(lock_file: str, folder: str) -> None:
    """Fetch the jars that FOLDER/libs lacks."""
    fetch(read_lock(Path(lock_file)), Path(folder) / "libs")


if __name__ == "__main__":
    main(*sys.argv[1:])
