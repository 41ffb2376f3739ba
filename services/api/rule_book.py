"""Following the business rules: the deny list in Redis, the catalogue on disk.

A thread looks for changes several times a second and replaces the rules as one snapshot. If Redis
is away or the file is broken, the rules stay as they were, and the log says so.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from nextclick.services.api.catalogue import read_categories
from nextclick.services.api.rules import Rules
from nextclick.shared.errors import NextclickError
from nextclick.shared.redis.deny_list import DenyList
from nextclick.shared.runtime.rate_limit import RateLimit

log = logging.getLogger(__name__)


class RuleBook:
    """Holds the rules and keeps them up to date."""

    def __init__(self, deny_list: DenyList, catalogue: Path | None, poll_seconds: float) -> None:
        """Read the catalogue, if there is one.

        Raises ConfigurationError if it is not usable.
        """
        self._deny_list = deny_list
        self._catalogue = catalogue
        self._poll_seconds = poll_seconds
        self._changing = threading.Lock()
        self._version: int | None = None
        self._modified = _modified(catalogue)
        self._warnings = RateLimit()
        self.rules = Rules(categories=read_categories(catalogue) if catalogue else {})
        """The rules of now; whoever answers a request reads this once."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rules", daemon=True)

    def start(self) -> None:
        """Look once, then begin to follow changes."""
        self.check()
        self._thread.start()

    def stop(self) -> None:
        """Follow no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def deny(self, item_id: str) -> None:
        """Recommend an item no more: here from now on, elsewhere within a second."""
        self._deny_list.add([item_id])
        self.check()

    def allow(self, item_id: str) -> None:
        """Recommend an item again."""
        self._deny_list.remove([item_id])
        self.check()

    def check(self) -> None:
        """Look for changes once."""
        with self._changing:
            try:
                version = self._deny_list.version()
                if version != self._version:
                    # The number first: a change between the two is seen again, never missed.
                    denied = self._deny_list.items()
                    self._version = version
                    if denied != self.rules.denied:
                        self.rules = Rules(denied, self.rules.categories)
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
            categories = read_categories(self._catalogue)
        except NextclickError as error:
            log.warning("the catalogue stays as it was: %s", error)
            return
        self.rules = Rules(self.rules.denied, categories)
        log.info("%s was read anew: %d categories", self._catalogue, len(categories))

    def _watch(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            try:
                self.check()
            except Exception:  # a bug: say so; rules of before are better than no rules
                log.exception("looking for changed rules failed")


def _modified(path: Path | None) -> tuple[int, int] | None:
    """What tells one state of a file from the next; None if it is not there."""
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size)
