from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.runtime import terminal
from nextclick.shared.runtime.terminal import STDOUT, make_console, output, progress


def test_a_table_in_a_pipe_is_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table("name", "value")
    table.add_row("x" * 100, "y" * 300)
    make_console().print(table)
    lines = capsys.readouterr().out.splitlines()
    assert any("x" * 100 in line and "y" * 300 in line for line in lines)
    assert max(map(len, lines)) < 420


def test_columns_can_be_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    table = Table("name")
    table.add_row("word " * 40)
    make_console().print(table)
    assert max(map(len, capsys.readouterr().out.splitlines())) == 60


def test_a_result_is_shown_and_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    output({"a": [1]}, file, lambda: print("shown"))
    assert json.loads(file.read_text()) == {"a": [1]}
    assert capsys.readouterr().out == "shown\n"


def test_a_dash_prints_json_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    output({"a": [1]}, STDOUT, lambda: print("shown"))
    assert json.loads(capsys.readouterr().out) == {"a": [1]}


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--json .*nowhere.* cannot be written"):
        output({}, tmp_path / "nowhere" / "out.json", lambda: None)


def test_progress_in_a_pipe_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    console = Console(file=io.StringIO())
    with progress(5000, "clicks sent", console) as show:
        for second in range(25):
            now = float(second)
            show(100 * second)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "1,000 of 5,000 clicks sent",
        "2,000 of 5,000 clicks sent",
    ]


def test_progress_on_a_terminal_says_what_is_left() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, no_color=True)
    with progress(50, "messages read", console) as show:
        show(25)
    assert isinstance(console.file, io.StringIO)
    assert "25/50 messages read" in console.file.getvalue()
