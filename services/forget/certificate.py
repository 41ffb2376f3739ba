"""The certificate of a forgetting: what was searched, what was removed, and what is left. Pure.

It holds no user id, but its hash with the event log's key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

HASH = "SHA-256 of the event log's property nextclick.forget.key, then the user id, in hex"
ELSEWHERE = (
    "files of clicks that were imported or replayed",
    "backups and replicas of Kafka, Redis, the event log and the registry",
    "other programs' copies of the topics",
    "logs of the shop and of its proxies",
)
"""Where nothing of ours can look."""


@dataclass(frozen=True)
class Sessions:
    """Sessions in Redis."""

    redis: str
    key_prefix: str
    removed: int


@dataclass(frozen=True)
class Log:
    """The event log."""

    url: str
    rows_removed: int
    files_removed: int
    version_before: int
    version_after: int


@dataclass(frozen=True)
class Topic:
    """Messages on a topic, which cannot be removed singly."""

    name: str
    exists: bool
    messages: int | None = None
    """Of the user; None: not counted."""
    positions: tuple[str, ...] = ()
    """PARTITION/OFFSET of dead letters, which redriving skips from now on."""
    cleanup_policy: str = ""
    retention_ms: int | None = None
    gone_by: str | None = None
    """When Kafka has removed the last of them at the latest; None: never by itself, or none."""


@dataclass(frozen=True)
class Models:
    """Versions that may have been trained on the user."""

    registry: str
    trained_on_user: tuple[str, ...]
    """Before; all that were trained at a lower forget count."""
    removed: tuple[str, ...]
    served: str | None
    forget_count: int
    """The next fit takes nothing over from a model that was trained at another."""

    @property
    def left(self) -> tuple[str, ...]:
        """Those that are still there."""
        return tuple(name for name in self.trained_on_user if name not in self.removed)


@dataclass
class Certificate:
    """Everything about one forgetting; a part that could not be done is None."""

    requested_at: str
    user_hash: str | None = None
    hash_of: str = HASH
    finished_at: str = ""
    sessions: Sessions | None = None
    event_log: Log | None = None
    topics: list[Topic] | None = None
    models: Models | None = None
    remaining: list[str] = field(default_factory=list)
    """What is not done, and why; empty: the forgetting is complete."""
    not_searched: tuple[str, ...] = ELSEWHERE

    @property
    def complete(self) -> bool:
        """Whether everything was searched and nothing is left to do."""
        return not self.remaining

    @property
    def found(self) -> bool:
        """Whether there was anything of the user in sessions, event log or dead letters."""
        return bool(
            (self.sessions and self.sessions.removed)
            or (self.event_log and self.event_log.rows_removed)
            or any(topic.messages for topic in self.topics or ())
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON; times are ISO 8601, UTC."""
        return {**asdict(self), "complete": self.complete, "found": self.found}

    def lines(self) -> Iterator[str]:
        """For a person to read."""
        yield f"user        {self.user_hash or 'unknown: the event log has the key of the hash'}"
        yield f"requested   {self.requested_at}, finished {self.finished_at}"
        if self.sessions:
            yield f"sessions    {self.sessions.removed} removed from {self.sessions.redis}"
        if log := self.event_log:
            yield (
                f"event log   {log.rows_removed:,} clicks and {log.files_removed:,} files removed "
                f"from {log.url}, table version {log.version_before} → {log.version_after}; "
                "no click from before the request will be added"
            )
        for topic in self.topics or ():
            yield f"topic       {_topic(topic)}"
        if self.models:
            yield from _models(self.models)
        yield f"not here    {'; '.join(self.not_searched)}"
        if not self.found:
            yield "nothing of this user was found"
        for text in self.remaining:
            yield f"REMAINING   {text}"
        yield "complete" if self.complete else "NOT COMPLETE: run the command again"


def iso(seconds: float) -> str:
    """ISO 8601 in UTC, whole seconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _topic(topic: Topic) -> str:
    if not topic.exists:
        return f"{topic.name}: there is none"
    count = "messages not counted" if topic.messages is None else f"{topic.messages:,} messages"
    if topic.positions:
        count += f" ({', '.join(topic.positions)}), skipped by redrive"
    if topic.messages == 0:
        return f"{topic.name}: {count}"
    gone = f"gone by {topic.gone_by}" if topic.gone_by else "never removed by themselves"
    return f"{topic.name}: {count}, {gone} ({topic.cleanup_policy}, {_days(topic.retention_ms)})"


def _days(retention_ms: int | None) -> str:
    if retention_ms is None or retention_ms < 0:
        return "no retention"
    return f"retention {retention_ms / 86_400_000:g} days"


def _models(models: Models) -> Iterator[str]:
    if not models.trained_on_user:
        yield "models      none was trained on this user"
        return
    if models.removed:
        yield f"models      {len(models.removed)} removed: {', '.join(models.removed)}"
    for name in models.left:
        served = ", which serves until another is promoted" if name == models.served else ""
        yield f"models      {name} may have been trained on this user{served}"
    yield "models      the next fit starts from scratch, without them"
