"""Reads click logs in common formats, and publishes them to Kafka or imports them."""
