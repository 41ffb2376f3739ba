"""The trainer: collects clicks into the event log, fits models on it, and publishes them."""
