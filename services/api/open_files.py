"""Lets a process open as many files as its connections need."""

from __future__ import annotations

import logging
import resource

log = logging.getLogger(__name__)

OTHER_FILES = 256
"""Files that are no client's connection: to Kafka, Redis, the registry, libraries, logs."""


def allowed_connections(wanted: int) -> int:
    """How many client connections the limit of open files allows; raises it as far as needed.

    Many systems start processes with a limit of 1,024, which may be raised. With connections up to
    the limit, neither Redis nor a new model could be read.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most == needed:
        return wanted
    allowed = max(1, most - OTHER_FILES)
    log.warning(
        "%d connections at most instead of NEXTCLICK_API__MAX_CONNECTIONS = %d: this process may "
        "open %d files (ulimit -Hn, LimitNOFILE)",
        allowed,
        wanted,
        most,
    )
    return allowed
