"""Every error that nextclick raises on purpose.

    NextclickError            one clear line for a person; the command line prints it, exit code 2
    ├── ConfigurationError    a setting is missing, unknown or wrong: stop and say which
    ├── Unavailable           Kafka, Redis or the registry is away: back off and retry
    ├── CommitRefused         the group has moved on: go back to what was committed last
    ├── Fenced                somebody else has our name, or the client is shut out: stop
    ├── RankLost              another process of a fit on several has died: stop
    ├── CheckpointError       this model version cannot be served: keep the old one
    └── BadClick              this message is no click: dead-letter it and go on

Anything else is a bug: it crashes the process loudly, the supervisor restarts it, and because
offsets are committed last nothing is lost.
"""

from __future__ import annotations


class NextclickError(Exception):
    """Base of all deliberate errors; its text names the cause and the remedy."""


class ConfigurationError(NextclickError):
    """A setting is missing, unknown or wrong."""


class Unavailable(NextclickError):
    """Kafka, Redis or the registry cannot be reached right now."""


class CommitRefused(NextclickError):
    """The consumer group has moved on: the partitions may be somebody else's now."""


class Fenced(NextclickError):
    """Another process has joined the group, or begun transactions, in our name."""


class RankLost(NextclickError):
    """Another process of a fit that runs on several has died or hangs."""


class CheckpointError(NextclickError):
    """A model version is missing, corrupt, or not what its manifest says."""


class BadClick(NextclickError):
    """A message on the clicks topic is not a click.

    `reason` is one of a few fixed words, fit for a metric label; the text says more.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
