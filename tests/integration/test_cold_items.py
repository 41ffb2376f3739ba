"""Items without a click: the page, command by command, and what the commands refuse."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nextclick.services.cli import app
from nextclick.shared.registry import Registry
from tests.integration.shells import STAY, Terminals, typed

PAGE = Path(__file__).parents[2] / "docs" / "cold-items.md"


@pytest.mark.long
def test_the_page(terminals: Terminals) -> None:
    said: dict[str, str] = {}
    for command in typed(PAGE):
        if command in STAY:
            terminals.stay(command, "are up")
        else:
            given = command.replace("--max-seconds 120", "--max-seconds 5")
            said[command] = terminals.say(given.replace("40000", "8000"))
    simulated, _, evaluated, loaded, *_ = said.values()
    assert "8,000 clicks written" in simulated
    assert "1,200 items written" in simulated
    assert "Category popularity" in evaluated
    assert "1,200 items sent to items" in loaded
    registry = Registry(str(terminals.folder / "registry"))
    (version,) = registry.versions()
    model = registry.load(version)
    assert len(model.vocabulary) == 1200
    assert model.training["cold_items"] == (model.popularity == 0).sum() > 20
    shown = json.loads(terminals.say(f"nextclick models show {version}"))
    assert shown["training"]["cold_items"] == model.training["cold_items"]

    code = "".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    assert code.count("max_seconds=120") == 1
    code = code.replace("max_seconds=120", 'max_epochs=1, device="cpu"')
    code = code.replace("fit(clicks,", "fit(clicks.tail(5000),")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=terminals.folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"\d+ \[ScoredItem", done.stdout)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["simulate", "--world", "variants"], "variants goes with simulate --log only"),
        (["simulate", "--items", "items.csv"], "--items goes with --log"),
        (["simulate", "--log", "c.parquet", "--items", "i.csv"], "only of --world variants"),
        (["evaluate", "missions", "--items", "no.csv", "--methods", "popularity"], "no.csv"),
        (["evaluate", "log", "--stream", "--items", "i.csv"], "--stream goes without"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(
    arguments: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code != 0
    assert why in f"{result.output}{result.exception}"
    assert list(tmp_path.iterdir()) == []
