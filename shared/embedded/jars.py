"""Kafka's jars: from KAFKA_HOME, or downloaded once into the user's cache folder.

`kafka-jars.toml` beside this module lists each jar with its size and sha256. jgo, a Maven client in
Python, downloads the missing jars; a jar that does not match its checksum is never used.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from nextclick.shared.embedded.server import not_installed
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.runtime.local_folder import exclusive_lock

LOCK_FILE = Path(__file__).with_name("kafka-jars.toml")
_DOWNLOADS_AT_ONCE = 6
_ATTEMPTS = 3
_TIMEOUT_SECONDS = 30

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Jar:
    """An entry of the lock file."""

    coordinates: str
    """group:artifact:version."""
    size: int
    """Bytes."""
    sha256: str

    @property
    def name(self) -> str:
        """File name of the jar."""
        _, artifact, version = self.coordinates.split(":")
        return f"{artifact}-{version}.jar"


@dataclass(frozen=True)
class Lock:
    """The content of the lock file."""

    kafka_version: str
    jars: tuple[Jar, ...]


def read_lock(path: Path = LOCK_FILE) -> Lock:
    """Read a lock file."""
    content = tomllib.loads(path.read_text())
    return Lock(content["kafka_version"], tuple(Jar(**jar) for jar in content["jars"]))


def cache_folder() -> Path:
    """The cache folder: $XDG_CACHE_HOME/nextclick, or ~/.cache/nextclick."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nextclick"


def kafka_jars() -> list[Path]:
    """The jars of Kafka's class path, downloaded if missing, and verified.

    Raises ConfigurationError if a download fails or a jar is not that of the lock file.
    """
    if home := os.environ.get("KAFKA_HOME"):
        return _jars_of_installation(Path(home))
    lock = read_lock()
    return fetch(lock, cache_folder() / f"kafka-{lock.kafka_version}")


def fetch(lock: Lock, folder: Path) -> list[Path]:
    """Download the jars of a lock file that a folder lacks, and verify all of them.

    Raises ConfigurationError if a download fails or a jar is not that of the lock file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(folder):  # two processes that start at once download once
            missing = [jar for jar in lock.jars if not (folder / jar.name).exists()]
            if missing:
                _download(lock.kafka_version, missing, folder)
    except OSError as error:
        raise ConfigurationError(f"the cache folder {folder}: {error}") from None
    for jar in lock.jars:
        verify(folder / jar.name, jar)
    return [folder / jar.name for jar in lock.jars]


def verify(path: Path, jar: Jar) -> None:
    """Raise ConfigurationError if the sha256 of a file is not that of the lock file."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != jar.sha256:
        raise ConfigurationError(
            f"{path} is not the jar that {LOCK_FILE.name} names (sha256 {found}, expected "
            f"{jar.sha256}): delete it and start again"
        )


def _jars_of_installation(home: Path) -> list[Path]:
    jars = sorted((home / "libs").glob("*.jar"))
    if not any(jar.name.startswith("kafka_") for jar in jars):
        raise ConfigurationError(f"KAFKA_HOME={home}: no libs/kafka_*.jar in there")
    return jars


def _download(version: str, jars: Sequence[Jar], folder: Path) -> None:
    """Download jars into the folder; a jar appears there complete and verified, or not at all."""
    try:
        from jgo.config import GlobalSettings
        from jgo.maven import MavenContext
        from requests import RequestException
    except ImportError:
        raise not_installed("jgo") from None
    # A mirror that the user has configured for jgo replaces the public repository.
    mirrors = GlobalSettings.load().repositories or None
    temporary = folder / ".download.tmp"
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed download
    maven = MavenContext(repo_cache=temporary, remote_repos=mirrors, timeout=_TIMEOUT_SECONDS)

    def fetch(jar: Jar) -> Jar:
        group, artifact, jar_version = jar.coordinates.split(":")
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                path = maven.project(group, artifact).at_version(jar_version).artifact().resolve()
                break
            # jgo raises RuntimeError if the repository lacks the jar.
            except (RequestException, RuntimeError, OSError) as error:
                shutil.rmtree(temporary / maven.project(group, artifact).path_prefix, True)
                if attempt == _ATTEMPTS:
                    raise ConfigurationError(
                        _download_failed(version, jar, folder, error)
                    ) from None
                log.warning("%s, attempt %s of %s: %s", jar.name, attempt, _ATTEMPTS, error)
        verify(path, jar)
        path.replace(folder / jar.name)
        return jar

    try:
        with (
            _progress(version, sum(jar.size for jar in jars)) as advance,
            ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool,
        ):
            for jar in pool.map(fetch, jars):
                advance(jar.size)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _download_failed(version: str, jar: Jar, folder: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())
    return (
        f"Apache Kafka {version} cannot be fetched into {folder} ({jar.name}: {reason}): "
        "give your own Kafka by NEXTCLICK_KAFKA__BOOTSTRAP_SERVERS, an unpacked one by KAFKA_HOME, "
        "or run it in Docker (docker compose up -d kafka)"
    )


@contextmanager
def _progress(version: str, size: int) -> Iterator[Any]:
    """Show a progress bar for `size` bytes; yields a function that advances it by bytes."""
    console = Console(stderr=True)
    title = f"fetching Apache Kafka {version} (once)"
    if not console.is_terminal:
        print(f"{title}: {size / 1e6:.0f} MB", file=sys.stderr)
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=size)
        yield lambda count: progress.advance(task, count)
