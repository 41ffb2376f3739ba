"""Reads a bounded sample of the clicks topic, and checks it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from nextclick.services.topics import findings
from nextclick.services.topics.findings import Report, line
from nextclick.shared.kafka import read_offsets, retained_offsets
from nextclick.shared.kafka.schema_registry import framed_reader
from nextclick.shared.runtime.anomalies import time_bounds
from nextclick.shared.runtime.settings import Settings
from nextclick.shared.schemas import Click

__all__ = ["as_json", "line", "run"]


def run(settings: Settings, limit: int) -> Report:
    """Check about `limit` of the newest messages, the same number from each partition.

    Raises Unavailable if Kafka does not answer or has no such topic, or the schema registry does
    not answer.
    """
    kafka = settings.kafka
    read_framed = framed_reader(settings.schema_registry, Click)
    retained = retained_offsets(kafka, kafka.clicks_topic)
    share = -(-limit // len(retained))
    newest = {
        partition: range(max(offsets.start, offsets.stop - share), offsets.stop)
        for partition, offsets in retained.items()
    }
    sample = read_offsets(kafka, kafka.clicks_topic, newest)
    return findings.check(sample, list(retained), time_bounds(settings.clicks), read_framed)


def as_json(report: Report, topic: str) -> dict[str, Any]:
    """The report as what JSON can hold."""
    content = {"topic": topic, **asdict(report)}
    for finding in content["findings"]:
        if finding["first"] is not None:
            finding["first"] = dict(zip(("partition", "offset"), finding["first"], strict=True))
    return content
