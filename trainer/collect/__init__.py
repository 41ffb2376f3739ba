"""The event log. The collector is not exported here, because it imports the Kafka client."""

from nextclick.trainer.collect.event_log import EventLog, Row

__all__ = [
    "EventLog",
    "Row",
]
