"""Prepares Kafka once per machine, in the user's cache folder, so that later starts are fast.

`installation` returns Java, the class path and two prepared files: the bootstrap checkpoint that
`StorageTool format` writes into a new data folder, and a class data sharing (CDS) archive, from
which the JVM maps Kafka's classes instead of loading and verifying them.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nextclick.shared.embedded.jars import cache_folder, kafka_jars
from nextclick.shared.embedded.java import Java, find_java
from nextclick.shared.embedded.properties import Node, write_properties
from nextclick.shared.embedded.server import Server, free_port
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.kafka.brokers import live_brokers
from nextclick.shared.runtime.local_folder import exclusive_lock

CHECKPOINT = "bootstrap.checkpoint"
"""File in each data folder: the initial feature levels of a new cluster."""
_ARCHIVE = "classes.jsa"
_TOOL_SECONDS = 120

_JVM_OPTIONS = [
    "-XX:+UseSerialGC",  # other collectors need more memory and threads
    "-XX:-UsePerfData",  # else each killed broker leaves a file in /tmp
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Installation:
    """A Java, Kafka's class path, and the folder with the files prepared for this pair."""

    java: Java
    jars: list[Path]
    prepared: Path

    def command(
        self, main_class: str, arguments: Sequence[str], options: Sequence[str]
    ) -> list[str]:
        """The command line that runs a class of Kafka; `options` are JVM options."""
        archive = self.prepared / _ARCHIVE
        shared_classes = [f"-XX:SharedArchiveFile={archive}"] if archive.exists() else []
        class_path = os.pathsep.join(map(str, self.jars))
        jvm = [str(self.java.binary), *_JVM_OPTIONS, *shared_classes, *options]
        return [*jvm, "-cp", class_path, main_class, *arguments]

    def checkpoint(self) -> bytes:
        """The content of a new data folder's bootstrap.checkpoint."""
        return (self.prepared / CHECKPOINT).read_bytes()


def installation() -> Installation:
    """Find Java and Kafka, and prepare them if this pair is not prepared yet.

    Raises ConfigurationError if either is missing or does not work.
    """
    java, jars = find_java(), kafka_jars()
    base = cache_folder() / "kafka-prepared"
    folder = base / _identity(java, jars)
    if not folder.exists():
        try:
            base.mkdir(parents=True, exist_ok=True)
            with exclusive_lock(base):  # another process may have prepared it meanwhile
                if not folder.exists():
                    _prepare(java, jars, folder)
        except OSError as error:
            raise ConfigurationError(f"the cache folder {base}: {error}") from None
    return Installation(java, jars, folder)


def _identity(java: Java, jars: Sequence[Path]) -> str:
    """A folder name that is unique to this Java and these jars: an archive fits no other pair."""
    parts = [str(java.binary), java.build, *_JVM_OPTIONS]
    for jar in jars:
        status = jar.stat()
        parts.append(f"{jar} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _prepare(java: Java, jars: list[Path], folder: Path) -> None:
    """Format a data folder, run a broker on it once, and archive the classes that it loaded."""
    print("preparing Apache Kafka for this Java (once, some 10 s)", file=sys.stderr)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed preparation
    data = temporary / "data"
    data.mkdir(parents=True)
    preparing = Installation(java, jars, temporary)
    node, properties = Node(1, free_port()), temporary / "server.properties"
    write_properties(properties, data, node, [node])
    log_file, classes = temporary / "kafka.log", temporary / "classes.txt"

    format_arguments = ["format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", str(properties)]
    _run(preparing.command("kafka.tools.StorageTool", format_arguments, []))
    shutil.copy(data / CHECKPOINT, temporary / CHECKPOINT)

    broker = Server(
        "kafka",
        preparing.command("kafka.Kafka", [str(properties)], [f"-XX:DumpLoadedClassList={classes}"]),
        node.port,
        log_file,
        is_ready=lambda address: live_brokers(address) is not None,
    )
    broker.wait_until_ready()
    broker.stop()

    archive = temporary / _ARCHIVE
    dump = [
        "-Xshare:dump",
        f"-XX:SharedClassListFile={classes}",
        f"-XX:SharedArchiveFile={archive}",
    ]
    try:
        _run(preparing.command("kafka.Kafka", [], dump))
    except ConfigurationError as error:  # a JVM without CDS works, it only starts slower
        log.warning("no archive of Kafka's classes, so the broker starts slower: %s", error)
    shutil.rmtree(data)
    temporary.rename(folder)


def _run(command: Sequence[str]) -> None:
    """Run a tool of Kafka or Java; if it fails, raise ConfigurationError with its last output."""
    outcome = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_TOOL_SECONDS,
        check=False,
    )
    if outcome.returncode != 0:
        raise ConfigurationError(
            f"{command[0]} ended with {outcome.returncode}; it printed: {outcome.stdout[-500:]}"
        )
