"""`nextclick evaluate` as a person runs it: tables, JSON, page, and one line for a mistake."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

from nextclick import __main__ as cli
from nextclick.services.evaluate import evaluation
from nextclick.services.evaluate.stream_report import StreamReport
from nextclick.services.replay.log import ReadOptions
from nextclick.shared.errors import ConfigurationError
from nextclick.trainer.collect import EventLog
from nextclick.trainer.compare.report.document import Report
from tests.integration.terminal import nextclick


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Sessions that walk round a ring of nine items; the test has some flaws."""
    walk = [" ".join(f"i{(s + t) % 9}" for t in range(2 + s % 6)) for s in range(150)]
    (tmp_path / "train_sessions.txt").write_text("\n".join(walk))
    (tmp_path / "test_sessions.txt").write_text("\n".join([*walk[:40], "", "i1", "i1 new i2"]))
    return tmp_path


def here(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command in this process, which has paid for its imports; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["nextclick", "evaluate", *arguments])
    monkeypatch.setenv("NEXTCLICK_DEVICE", "cpu")
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_a_comparison_from_files_to_report(data: Path) -> None:
    numbers, html = data / "report.json", data / "report.html"
    written = ["--json", str(numbers), "--html", str(html)]
    limits = ["--threads", "1", "--max-seconds", "1"]
    environ = {**os.environ, "NEXTCLICK_DEVICE": "cpu"}
    result = nextclick(
        environ, "evaluate", str(data), "--methods", "popularity,bst", *limits, *written
    )
    assert result.returncode == 0, result
    assert result.stderr == ""  # progress is for terminals
    for expected in ("BST default", "Popularity", "HR@20", "1 × empty line", "line 41"):
        assert expected in result.stdout

    report = Report.model_validate_json(numbers.read_text())
    assert {method.name for method in report.methods} == {"BST default", "Popularity"}
    assert report.seeds == [0]
    assert report.facts["test cases"] == sum(1 + s % 6 for s in range(40)) + 2
    assert {problem.what: problem.first for problem in report.problems} == {
        "empty line": [41],
        "session of one click": [42],
        "item that no training session has": [43],
    }
    for method in report.methods:
        assert set(method.metrics) == {
            *("hr@5", "hr@10", "hr@20", "mrr@20", "ndcg@10", "auc"),
            *("coverage", "fit_seconds", "ms_single", "ms_batched"),
            *(("ece", "ece_noise", "ece_before") if method.name == "BST default" else ()),
        }
        assert set(method.versus) == {"hr@20", "mrr@20"}
        # Nine items: everything but the one cold target is among the first twenty.
        assert method.metrics["hr@20"].mean == 1 - 1 / int(report.facts["test cases"])
    assert any(method.curve for method in report.methods)
    assert {"python", "torch", "threads", "processor"} <= set(report.environment)

    page = html.read_text()
    assert len(re.findall(r'src="data:image/png;base64,', page)) == 9
    assert "BST default" in page


def test_the_best_method_is_found_in_a_world_of_order(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = data / "x.json"
    asked = [str(data), "--methods", "popularity,Markov-1", "--json", str(target)]
    assert here(monkeypatch, *asked) == 0
    markov, popularity = Report.model_validate_json(target.read_text()).methods
    assert (markov.name, popularity.name) == ("Markov-1", "Popularity")
    assert markov.versus["mrr@20"].low > 0.3


@pytest.mark.long
def test_an_event_log_is_predicted_click_by_click(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Users walk round a ring; every third event is an impression, which is no click."""
    rows = [
        (f"u{t % 20}", f"i{(t // 20 + t) % 40}", 1_700_000_000_000 + 1000 * t, kind)
        for t in range(900)
        for kind in (("click", "impression") if t % 2 else ("click",))
    ]
    columns = ["user_id", "item_id", "timestamp", "event_type"]
    frame = pd.DataFrame(rows, columns=columns)
    frame["event_id"] = frame.index.astype(str)
    EventLog(str(tmp_path / "log")).import_clicks(frame)
    numbers, picture = tmp_path / "stream.json", tmp_path / "stream.png"
    monkeypatch.setenv("NEXTCLICK_TRAINER__MAX_EPOCHS", "1")
    asked = [str(tmp_path / "log"), "--stream", "--every", "6m", "--threads", "1"]
    assert here(monkeypatch, *asked, "--json", str(numbers), "--plot", str(picture)) == 0
    report = StreamReport.model_validate_json(numbers.read_text())
    assert (report.clicks, report.every, report.data) == (900, "6m", "log")
    assert [window.first_click for window in report.windows] == [360, 720]
    assert [window.cases for window in report.windows] == [360, 180]
    assert report.cases == 540
    assert report.totals["V-SkNN"]["hr@20"].mean > 0.9
    assert report.versus["mrr@20"].other == "V-SkNN"
    assert "BST default" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")


def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> str:
    """The one line that a mistake leaves on stderr."""
    assert here(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("nextclick: ")
    assert captured.out == ""
    return line


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere"], "DATA nowhere"),
        (["."], "train_sessions.txt"),
        (["DATA", "--methods", "best"], "--methods best"),
        (["DATA", "--methods", "ceiling"], "simulated worlds"),
        (["DATA", "--methods", ","], "--methods"),
        (["DATA", "--preset", "best"], "default"),
        (["DATA", "--json", "no/folder/x.json"], "--json"),
        (["DATA", "--html", "no/folder/x.html"], "--html"),
        (["DATA", "--html", "."], "--html"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_fitted(
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    named: str,
) -> None:
    (data / "empty").mkdir()
    monkeypatch.chdir(data / "empty")
    monkeypatch.setattr(evaluation, "compare", lambda *_: pytest.fail("it was too late"))
    given = [str(data) if argument == "DATA" else argument for argument in arguments]
    assert named in refused(monkeypatch, capsys, *given)


def test_without_matplotlib_the_page_says_what_to_install(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluation, "find_spec", lambda name: None)
    line = refused(monkeypatch, capsys, str(data), "--html", str(data / "x.html"))
    assert "pip install 'nextclick[report]'" in line


def test_worlds_are_opened_by_name_and_folders_by_path(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    (data / "source").mkdir()
    assert (
        evaluation.open_data("source", 0, ReadOptions()).oracle is not None
    )  # a world's name comes first
    with pytest.raises(ConfigurationError, match="there is no file"):
        evaluation.open_data("./source", 0, ReadOptions())
    assert evaluation.open_data(str(data), 0, ReadOptions()).name == data.name
