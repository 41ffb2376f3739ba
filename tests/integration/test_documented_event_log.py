"""What docs/event-log.md says about reading the event log with other programs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nextclick.trainer.collect import EventLog, Row

PAGE = (Path(__file__).parents[2] / "docs" / "event-log.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ARRIVAL = 1_700_000_000_000


@pytest.fixture
def event_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EventLog:
    monkeypatch.chdir(tmp_path)
    log = EventLog("event_log")
    kinds = ["click", "purchase", "click"]
    arrivals = [ARRIVAL - 1, ARRIVAL, ARRIVAL + 1]
    log.append(
        [
            Row(f"e{n}", "u", "i", 1, kind, arrival, 0, n)
            for n, (kind, arrival) in enumerate(zip(kinds, arrivals, strict=True))
        ],
        {0: 3},
    )
    return log


def test_duckdb(event_log: EventLog, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [block for block in BLOCKS if "duckdb" in block]
    exec(block, {})
    printed = capsys.readouterr().out
    assert re.search(r"click\s+│\s+2\s.*purchase\s+│\s+1\s", printed, re.DOTALL), printed


def test_pandas(event_log: EventLog) -> None:
    (block,) = [block for block in BLOCKS if "to_pandas" in block]
    names: dict[str, object] = {}
    exec(block, names)
    assert list(names["newest"]["event_id"]) == ["e1", "e2"]  # type: ignore[index]
