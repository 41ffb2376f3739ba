"""Several files, folders, patterns, standard input and URLs are read as one log."""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path

import fsspec
import pandas as pd
import pytest

from nextclick.services.evaluate.evaluation import open_data
from nextclick.services.replay.log import ClickFile, ReadOptions, load
from nextclick.services.replay.publish import state_path
from nextclick.services.replay.sources import find_sources
from nextclick.shared.errors import ConfigurationError

HEADER = "user_id,item_id,timestamp\n"
DAYS = [f"{HEADER}u1,a,1600000000\nu2,b,1600000001\n", f"{HEADER}u1,c,1600086400\n"]
WANTED = [("u1", "a", 0), ("u2", "b", 1), ("u1", "c", 86400)]


def clicks_of(file: ClickFile) -> list[tuple[str, str, int]]:
    return [
        (file.user_ids[user], file.item_ids[item], int(time) // 1000 - 1_600_000_000)
        for user, item, time in zip(file.users, file.items, file.times, strict=True)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The later day comes first by name; one is packed; some files are no clicks."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "day.csv").write_text(DAYS[1])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "day.csv.gz").write_bytes(gzip.compress(DAYS[0].encode()))
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / ".day.csv.replay.json").write_text("{}")
    return tmp_path


def test_all_files_of_a_folder_in_the_order_of_time(folder: Path) -> None:
    file = load(folder)
    assert clicks_of(file) == WANTED
    assert file.format == "csv"
    assert [source.name for source in find_sources([str(folder)])] == ["a/day.csv", "b/day.csv.gz"]


def test_a_pattern(folder: Path) -> None:
    assert clicks_of(load(folder / "*" / "day.csv*")) == WANTED
    assert clicks_of(load(folder / "*" / "*.gz")) == WANTED[:2]
    with pytest.raises(ConfigurationError, match=r"\*.tsv: there is no file"):
        load(folder / "*.tsv")


def test_a_name_with_brackets_is_no_pattern_if_there_is_such_a_file(tmp_path: Path) -> None:
    (tmp_path / "clicks[1].csv").write_text(DAYS[1])
    assert clicks_of(load(tmp_path / "clicks[1].csv")) == WANTED[2:]


def test_several(folder: Path) -> None:
    assert clicks_of(load([str(folder / "a"), str(folder / "b" / "day.csv.gz")])) == WANTED


def test_files_of_one_name_have_users_of_their_own(tmp_path: Path) -> None:
    """Where a user is named after the file, as in files of sessions."""
    texts = []
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sessions.txt").write_text("a b\n")
        texts.append(str(tmp_path / name / "sessions.txt"))
    assert len(load(texts).user_ids) == 2
    assert len(load(tmp_path).user_ids) == 2


def test_each_problem_names_its_file(folder: Path) -> None:
    (folder / "a" / "day.csv").write_text(f"{DAYS[1]}u3,d,later\nu1,a,1600000000\n")
    found = {(problem.file, problem.what): problem.first for problem in load(folder).problems}
    assert found == {
        ("a/day.csv", "click without a readable time"): [3],
        ("b/day.csv.gz", "duplicate click"): [2],
    }


def test_files_of_two_formats_are_refused(folder: Path) -> None:
    (folder / "b" / "more.jsonl").write_text('{"user_id":"u","item_id":"i","timestamp":1}\n')
    with pytest.raises(ConfigurationError, match=r"a/day.csv is csv, but b/more.jsonl is jsonl"):
        load(folder)
    (folder / "b" / "more.jsonl").write_text("a,b\n")
    with pytest.raises(ConfigurationError, match=r"b/more.jsonl: which format is this"):
        load(folder)


def test_each_file_has_its_unit_of_time(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text(DAYS[0])
    (tmp_path / "2.csv").write_text(f"{HEADER}u1,c,1600086400000\n")
    file = load(tmp_path)
    assert clicks_of(file) == WANTED
    assert file.time_unit == "s, ms"


@pytest.mark.parametrize("pack", [str.encode, lambda text: gzip.compress(text.encode())])
def test_standard_input(monkeypatch: pytest.MonkeyPatch, pack) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(pack(DAYS[0]))))
    assert clicks_of(load("-")) == WANTED[:2]


def test_parquet_by_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    pd.read_csv(io.StringIO(DAYS[0])).to_parquet(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.getvalue())))
    assert clicks_of(load("-")) == WANTED[:2]


def test_a_url() -> None:
    """Any fsspec file system; that of the memory needs no server."""
    memory = fsspec.filesystem("memory")
    try:
        for day, content in enumerate(DAYS):
            memory.pipe_file(f"/shop/day-{day}.csv", content.encode())
        assert clicks_of(load("memory://shop/day-1.csv")) == WANTED[2:]
        assert clicks_of(load("memory://shop")) == WANTED
        assert clicks_of(load("memory://shop/*.csv")) == WANTED
    finally:
        memory.rm("/shop", recursive=True)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ("nowhere.csv", "nowhere.csv: there is no such file"),
        ("memory://shop/none.csv", "there is no such file"),
        ("telepathy://shop/none.csv", "telepathy"),
    ],
)
def test_what_is_not_there_is_named(data: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        load(data)
    with pytest.raises(ConfigurationError, match=complaint):
        open_data(data, 1, ReadOptions())


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no file"):
        load(tmp_path)


def test_evaluate_reads_a_folder_of_files(tmp_path: Path) -> None:
    rows = [f"u{i % 20},i{i % 7},{1_600_000_000 + i * 60}\n" for i in range(400)]
    (tmp_path / "1.csv").write_text(HEADER + "".join(rows[:200]))
    (tmp_path / "2.csv").write_text(HEADER + "".join(rows[200:]))
    opened = open_data(str(tmp_path), 1_800_000, ReadOptions())
    assert len(opened.log.items) == 400


def test_clicks_of_times_to_come_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text(DAYS[0])
    file = load(tmp_path / "clicks.csv", ReadOptions(latest_ms=1_600_000_000_500))
    assert clicks_of(file) == WANTED[:1]
    assert [(p.what, p.count, p.first) for p in file.problems] == [
        ("click of a time to come", 1, [3])
    ]


def test_where_the_progress_is_kept(folder: Path) -> None:
    assert state_path(load(folder)) == folder.with_name(f".{folder.name}.replay.json")
    day = folder / "a" / "day.csv"
    assert state_path(load(day)) == day.with_name(".day.csv.replay.json")
    with pytest.raises(ConfigurationError, match="--state FILE"):
        state_path(load(folder / "*" / "day.csv"))
