"""`nextclick import`: adds the clicks of a file to the trainer's event log, without Kafka."""

from __future__ import annotations

from nextclick.services.replay.frame import to_frame
from nextclick.services.replay.log import ClickFile
from nextclick.services.replay.publish import fingerprint
from nextclick.trainer.collect import EventLog


def import_file(clicks: ClickFile, url: str) -> str:
    """Add the clicks to an event log atomically; returns a one-line summary.

    Raises ConfigurationError or Unavailable if the log cannot be written.
    """
    event_log = EventLog(url)
    imported = event_log.import_clicks(to_frame(clicks), fingerprint(clicks))
    if not imported:
        return (
            f"{event_log.url} holds this file's {len(clicks):,} clicks already, or their users "
            "were forgotten; nothing was imported"
        )
    return f"{imported:,} clicks imported into {event_log.url}"
