"""Logging: every record is one line, and secrets are masked.

Two forms. *Text* is for people. *JSON* is for log collectors: one object per line, with these keys

    time        UTC, ISO 8601, milliseconds
    level, logger, service, message
    exception   the traceback, where there is one
    FIELDS      structured data, if the logging call passes it in `extra={...}`
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Collection
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, TextIO

from nextclick.shared.runtime.masking import printable, redact

LogFormat = Literal["auto", "text", "json"]
"""auto: text if stderr is a terminal, else JSON."""

FIELDS = (
    "event_id",
    "topic",
    "partition",
    "offset",
    "partitions",  # list of the partitions that were assigned or revoked
    "model_version",
    "previous_version",  # the version served before, or after a rollback
    "reason",  # the label of the metric that counts such events
    "outcome",  # of a retraining
    "seconds",
    "count",  # of messages that Kafka removed before they were read
)


class TextFormatter(logging.Formatter):
    """Escapes unprintable characters, so that a user id with a line break cannot forge a record.

    Lines of a traceback are indented, so that the text of an exception cannot forge one either.
    """

    def __init__(self, name: str, secrets: Collection[str] = ()) -> None:
        super().__init__(f"%(asctime)s {name} %(levelname)s %(message)s")
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """Format the record as text."""
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        lines = [self.formatMessage(record)]
        if record.exc_info and record.exc_info[0] is not None:
            trace = self.formatException(record.exc_info)
            lines += ["    " + line for line in trace.split("\n")]
        return "\n".join(printable(redact(self._secrets, line)) for line in lines)


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object on one line of ASCII; no text can break out of it."""

    def __init__(self, name: str, secrets: Collection[str] = ()) -> None:
        super().__init__()
        self._name = name
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """Format the record as JSON."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry: dict[str, object] = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "service": self._name,
            "message": self._masked(record.getMessage()),
        }
        for field in FIELDS:
            value = getattr(record, field, None)
            if value is not None:
                entry[field] = self._masked(value) if isinstance(value, str) else value
        if record.exc_info and record.exc_info[0] is not None:
            entry["exception"] = self._masked(self.formatException(record.exc_info))
        return json.dumps(entry).replace("\x7f", "\\u007f")

    def _masked(self, text: str) -> str:
        return redact(self._secrets, text)


def set_up(
    name: str,
    level: str,
    secrets: Collection[str] = (),
    log_format: LogFormat = "text",
    stream: TextIO | None = None,
) -> None:
    """Log to `stream` (default: stderr), uncaught exceptions too; replaces earlier handlers."""
    stream = stream or sys.stderr
    as_json = log_format == "json" or (log_format == "auto" and not stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter((JsonFormatter if as_json else TextFormatter)(name, secrets))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(as_json)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_a_thread


def is_json() -> bool:
    """Whether this process logs JSON."""
    return any(isinstance(h.formatter, JsonFormatter) for h in logging.getLogger().handlers)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("nextclick").critical("a bug ends this process", exc_info=error)


def _log_uncaught_in_a_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
        name = args.thread.name if args.thread else "?"
        logging.getLogger("nextclick").critical(
            "a bug ends thread %s", name, exc_info=args.exc_value
        )
