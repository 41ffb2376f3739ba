"""Reads a bounded sample of the clicks topic, and checks it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from nextclick.services.topics import findings
from nextclick.services.topics.findings import Report, line
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.kafka import read_offsets, retained_offsets
from nextclick.shared.kafka.schema_registry import framed_reader
from nextclick.shared.runtime.anomalies import time_bounds
from nextclick.shared.runtime.settings import Settings
from nextclick.shared.schemas import Click

__all__ = ["line", "run", "write"]


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


def write(report: Report, topic: str, path: Path) -> None:
    """Write the report as JSON. Raises ConfigurationError if the file cannot be written."""
    content = {"topic": topic, **asdict(report)}
    for finding in content["findings"]:
        if finding["first"] is not None:
            finding["first"] = dict(zip(("partition", "offset"), finding["first"], strict=True))
    try:
        path.write_text(json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise ConfigurationError(f"--json {path} cannot be written ({error})") from None
