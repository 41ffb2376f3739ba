"""Your own clicks: logs in the usual formats, onto Kafka or into the event log."""
