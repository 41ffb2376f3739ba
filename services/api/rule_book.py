"""Keeps the business rules up to date: the deny list in Redis, the catalogue on disk.

A thread polls both for changes and replaces the rules as one snapshot. If Redis is unavailable or
the file is invalid, the last rules stay, and a warning is logged.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from nextclick.services.api.catalogue import Catalogue, read_catalogue
from nextclick.services.api.rules import Rules
from nextclick.shared.errors import NextclickError
from nextclick.shared.redis.deny_list import DenyList
from nextclick.shared.runtime.rate_limit import RateLimit

log = logging.getLogger(__name__)


class RuleBook:
    """Holds the rules and keeps them up to date."""

    def __init__(self, deny_list: DenyList, catalogue: Path | None, poll_seconds: float) -> None:
        """Read the catalogue, if there is one. Raises ConfigurationError if it is invalid."""
        self._deny_list = deny_list
        self._catalogue = catalogue
        self._poll_seconds = poll_seconds
        self._lock = threading.Lock()
        self._version: int | None = None
        self._modified = _modified(catalogue)
        self._warnings = RateLimit()
        self.rules = Rules(catalogue=read_catalogue(catalogue) if catalogue else Catalogue())
        """The current rules, immutable; read this once per request."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rules", daemon=True)

    def start(self) -> None:
        """Check for changes once, then start the thread."""
        self.check()
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def deny(self, item_id: str) -> None:
        """Deny an item: in this process at once, in others within a second. Raises Unavailable."""
        self._deny_list.add([item_id])
        self.check()

    def allow(self, item_id: str) -> None:
        """Allow an item again. Raises Unavailable."""
        self._deny_list.remove([item_id])
        self.check()

    def check(self) -> None:
        """Check for changes once."""
        with self._lock:
            try:
                version = self._deny_list.version()
                if version != self._version:
                    # The version is read first: a change between the two reads is read again.
                    denied = self._deny_list.items()
                    self._version = version
                    if denied != self.rules.denied:
                        self.rules = Rules(denied, self.rules.catalogue)
                        log.info("%d items are denied", len(denied))
            except NextclickError as error:
                if self._warnings.allow():
                    log.warning("the deny list stays as it was: %s", error)
            self._check_catalogue()

    def _check_catalogue(self) -> None:
        modified = _modified(self._catalogue)
        if self._catalogue is None or modified == self._modified:
            return
        self._modified = modified
        try:
            read = read_catalogue(self._catalogue)
        except NextclickError as error:
            log.warning("the catalogue stays as it was: %s", error)
            return
        self.rules = Rules(self.rules.denied, read)
        log.info("%s was reloaded: %d categories", self._catalogue, len(read.categories))

    def _watch(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            try:
                self.check()
            except Exception:  # a bug: log it and keep the last rules
                log.exception("looking for changed rules failed")


def _modified(path: Path | None) -> tuple[int, int] | None:
    """Modification time (ns) and size of a file, to detect changes; None if it is missing."""
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size)
