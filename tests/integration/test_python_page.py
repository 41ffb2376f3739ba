"""The Python of docs/python.md and docs/notebook.ipynb runs from top to bottom, on fewer clicks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nextclick.services.simulator.missions import MissionWorld
from nextclick.services.simulator.publish import click_frame
from nextclick.shared.kafka import TopicReader, ensure_topics
from nextclick.shared.runtime.settings import KafkaSettings
from tests.waiting import until

DOCS = Path(__file__).parents[2] / "docs"
PAGE, NOTEBOOK = DOCS / "python.md", DOCS / "notebook.ipynb"
CLICKS = 1500


@pytest.fixture(autouse=True)
def clicks(tmp_path: Path) -> None:
    frame = click_frame(MissionWorld().clicks(CLICKS, 1), 1_700_000_000_000, rate=1, seed=0)
    frame.to_csv(tmp_path / "clicks.csv", index=False)


def replaced(code: str, old: str, new: str) -> str:
    assert code.count(old) == 1, old
    return code.replace(old, new)


def run(code: str, folder: Path) -> str:
    """Run code as it is, but for the length of its fit; returns what it prints."""
    code = replaced(code, "max_seconds=60", 'max_epochs=1, device="cpu"')
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env={**os.environ, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_the_page(kafka: KafkaSettings, tmp_path: Path) -> None:
    ensure_topics(kafka, [kafka.recommendations_topic])
    code = "".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    code = replaced(code, 'bootstrap_servers="localhost:9092"', f"**{kafka.model_dump()!r}")
    code = replaced(code, "silence_seconds=10", "silence_seconds=1")
    printed = run(code, tmp_path)
    assert re.search(r"^V-SkNN +0\.\d+", printed, re.MULTILINE)
    (version,) = (path.name for path in (tmp_path / "registry").glob("*-*"))
    assert version in printed
    reader = TopicReader(kafka, [kafka.clicks_topic])
    sent: list[object] = []
    until(lambda: sent.extend(reader.poll()) or len(sent) >= 100, "the clicks")
    reader.close()
    assert len(sent) == 100


@pytest.mark.long
def test_the_notebook(tmp_path: Path) -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in cells), "strip the outputs"
    looked_at = 'assert len(plt.gca().lines) == 4, "the plot"\n'
    program = replaced("\n".join(code), "plt.show()", looked_at + "plt.show()")
    history, first = run(program, tmp_path).splitlines()[:2]
    assert len(json.loads(history.replace("'", '"'))) == 2
    assert re.fullmatch(r"0\.\d{3}  \w.*", first)


def test_the_notebook_makes_its_own_clicks(tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").unlink()
    source = json.loads(NOTEBOOK.read_text())["cells"]
    (first,) = ("".join(cell["source"]) for cell in source if cell["id"] == "clicks")
    done = subprocess.run([sys.executable, "-c", first], cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert len((tmp_path / "clicks.csv").read_text().splitlines()) == 20_001
