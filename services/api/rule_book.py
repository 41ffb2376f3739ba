"""Keeps the business rules up to date with the catalogue, a file.

A thread looks for changes and replaces the rules as one snapshot. If the file is invalid, the last
rules stay, and a warning is logged. Which items no list may hold is on the items topic
(shared/items.py).
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from nextclick.services.api.catalogue import Catalogue, read_catalogue
from nextclick.services.api.rules import Rules
from nextclick.shared.errors import NextclickError
from nextclick.shared.runtime.background import BackgroundThread

log = logging.getLogger(__name__)


class RuleBook:
    """Holds the rules and keeps them up to date."""

    def __init__(self, catalogue: Path | None, poll_seconds: float) -> None:
        """Read the catalogue, if there is one. Raises ConfigurationError if it is invalid."""
        self._catalogue = catalogue
        self._poll_seconds = poll_seconds
        self._modified = _modified(catalogue)
        self.rules = Rules(catalogue=read_catalogue(catalogue) if catalogue else Catalogue())
        """The current rules, immutable; read this once per request."""
        self._thread = BackgroundThread("rules", self._watch)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._thread.stop()

    def check(self) -> None:
        """Look for a change once."""
        modified = _modified(self._catalogue)
        if self._catalogue is None or modified == self._modified:
            return
        self._modified = modified
        try:
            read = read_catalogue(self._catalogue)
        except NextclickError as error:
            log.warning("the catalogue stays as it was: %s", error)
            return
        self.rules = Rules(read)
        log.info("%s was reloaded: %d categories", self._catalogue, len(read.categories))

    def _watch(self, stop: threading.Event) -> None:
        while not stop.wait(self._poll_seconds):
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
