"""From the topic into the event log. The collector is not named here: it brings Kafka along."""

from nextclick.trainer.collect.compaction import compact
from nextclick.trainer.collect.event_log import EventLog, Row

__all__ = [
    "EventLog",
    "Row",
    "compact",
]
