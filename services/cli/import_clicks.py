"""`nextclick import`: adds the clicks of a file to the trainer's event log, without Kafka."""

from __future__ import annotations

from nextclick.services.replay.frame import to_frame
from nextclick.services.replay.log import ClickFile
from nextclick.services.replay.publish import fingerprint
from nextclick.trainer.collect import EventLog


def import_file(clicks: ClickFile, folder: str) -> str:
    """Add the clicks to an event log atomically; returns a one-line summary.

    Raises ConfigurationError or Unavailable if the log cannot be written.
    """
    event_log = EventLog(folder)
    source = fingerprint(clicks)
    if source in event_log.imported_sources():
        return f"{folder} holds this file's {len(clicks):,} clicks already; nothing was imported"
    event_log.import_clicks(to_frame(clicks), source)
    return f"{len(clicks):,} clicks imported into {folder}"
