"""The event log. The collector is not exported here, because it imports the Kafka client."""

from nextclick.trainer.collect.click_table import Row, is_event_log
from nextclick.trainer.collect.event_log import EventLog, LogState

__all__ = [
    "EventLog",
    "LogState",
    "Row",
    "is_event_log",
]
