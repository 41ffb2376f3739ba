"""Every error that nextclick raises on purpose.

    NextclickError            the command line prints its text on one line, exit code 2
    ├── ConfigurationError    a setting is missing, unknown or wrong: stop and name it
    ├── Unavailable           Kafka, Redis or a registry is unreachable: back off and retry
    ├── CommitRefused         the group has rebalanced: resume from the committed offsets
    ├── Fenced                another process uses our id, or Kafka shut the client out: stop
    ├── RankLost              another process of a distributed fit has died: stop
    ├── CheckpointError       this model version cannot be served: keep the old one
    ├── BadRecommendation     this message is not a recommendation: skip it
    ├── BadItem               this message says nothing valid about an item: count it and go on
    └── BadClick              this message is not a click: dead-letter it and go on

Anything else is a bug: it crashes the process, the supervisor restarts it, and nothing is lost,
because offsets are committed last.
"""

from __future__ import annotations


class NextclickError(Exception):
    """Base class of all deliberate errors; the text names the cause and the remedy."""


class ConfigurationError(NextclickError):
    """A setting is missing, unknown or wrong."""


class Unavailable(NextclickError):
    """Kafka, Redis or a registry cannot be reached now; a retry may succeed."""


class CommitRefused(NextclickError):
    """The consumer group has rebalanced: another member may own the partitions now."""


class Fenced(NextclickError):
    """Another process uses the same group.instance.id or transactional.id."""


class RankLost(NextclickError):
    """Another process of a distributed fit has died or hangs."""


class CheckpointError(NextclickError):
    """A model version is missing, corrupt, or not what its manifest says."""


class BadRecommendation(NextclickError):
    """A message on the recommendations topic is not a recommendation, or cannot be read."""


class BadItem(NextclickError):
    """A message on the items topic is not an item, or not under the item's key."""


class BadClick(NextclickError):
    """A message on the clicks topic is not a click.

    `reason` is one of a few fixed words, used as a metric label; the text has the details.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
