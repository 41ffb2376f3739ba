"""The log of a process: a record is one line, whatever is in it, and no secret is in any."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection
from types import TracebackType

from shared.masking import printable, without


class OneLine(logging.Formatter):
    """Escapes what is not printable: a user id with a line break cannot forge a record.

    The lines of a traceback follow indented, so that the text of an exception cannot either.
    """

    def __init__(self, name: str, secrets: Collection[str] = ()) -> None:
        super().__init__(f"%(asctime)s {name} %(levelname)s %(message)s")
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """Give the record as text."""
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        lines = [self.formatMessage(record)]
        if record.exc_info and record.exc_info[0] is not None:
            trace = self.formatException(record.exc_info)
            lines += ["    " + line for line in trace.split("\n")]
        return "\n".join(printable(without(self._secrets, line)) for line in lines)


def set_up(name: str, level: str, secrets: Collection[str] = ()) -> None:
    """Log to stderr, and what ends the process, too; in place of what was set up before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine(name, secrets))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    sys.excepthook = _log_uncaught


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("nextclick").critical("a bug ends this process", exc_info=error)
