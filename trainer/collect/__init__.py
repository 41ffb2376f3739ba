"""The event log. The collector is not exported here, because it imports the Kafka client."""

from nextclick.trainer.collect.event_log import EventLog, LogState, Row

__all__ = [
    "EventLog",
    "LogState",
    "Row",
]
