from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.model import Vocabulary
from nextclick.trainer.compare.benchmark import open_session_files
from nextclick.trainer.data import Split
from nextclick.trainer.data.session_files import TEST, TRAIN, read_sessions

GOOD = b"a b c\n" * 20


def folder(path: Path, train: bytes, test: bytes) -> Path:
    path.mkdir(exist_ok=True)
    (path / TRAIN).write_bytes(train)
    (path / TEST).write_bytes(test)
    return path


def found(path: Path) -> dict[tuple[str, str], tuple[int, list[int]]]:
    """(file, flaw) → (how often, first lines)."""
    return {(p.file, p.what): (p.count, p.first) for p in read_sessions(path)[1]}


def test_every_next_click_of_a_test_session_is_a_case(tmp_path: Path) -> None:
    long = " ".join(str(i) for i in range(15))
    benchmark = open_session_files(
        folder(tmp_path, f"{long}\n9 8\n".encode(), f"{long}\n".encode())
    )
    cases = benchmark.cases
    ids = ["", *benchmark.vocabulary.item_ids]
    assert [ids[t] for t in cases.targets] == [str(i) for i in range(1, 15)]
    for i, history in enumerate(cases.histories, start=1):
        before = [str(k) for k in range(i)][-10:]
        assert [ids[row] for row in history] == [""] * (10 - len(before)) + before
    assert benchmark.problems == []


def test_the_last_tenth_of_the_training_sessions_is_the_validation(tmp_path: Path) -> None:
    train = "".join(f"a{i} b{i}\n" for i in range(25)).encode()
    log, _ = read_sessions(folder(tmp_path, train, b"a1 b1\n"))
    assert log.ids_in(Split.VALIDATION) == ["a23", "b23", "a24", "b24"]
    assert len(log.ids_in(Split.TRAIN)) == 46
    assert log.ids_in(Split.TEST) == ["a1", "b1"]


def test_sessions_do_not_run_into_each_other(tmp_path: Path) -> None:
    log, _ = read_sessions(folder(tmp_path, b"a b\nc d e\n", b"a c\nb d\n"))
    assert log.starts.tolist() == [0, 0, 2, 2, 2, 5, 5, 7, 7]
    assert log.user_ids.tolist() == [f"{TRAIN}:1", f"{TRAIN}:2", f"{TEST}:1", f"{TEST}:2"]


def test_flaws_are_counted_with_their_lines(tmp_path: Path) -> None:
    test = b"a b\n\na\n" + b"\xff\xfe a\n" + b"x" * 129 + b" b\n" + b"a \x00 b\n" + b"a new b\n"
    assert found(folder(tmp_path, GOOD + b" \t \r\nsolo\n", test)) == {
        (TRAIN, "empty line"): (1, [21]),
        (TRAIN, "session of one click"): (1, [22]),
        (TEST, "empty line"): (1, [2]),
        (TEST, "session of one click"): (1, [3]),
        (TEST, "item id that is not UTF-8"): (1, [4]),
        (TEST, "item id of more than 128 characters"): (1, [5]),
        (TEST, "item id with a control character"): (1, [6]),
        (TEST, "item that no training session has"): (1, [7]),
    }


def test_only_the_first_few_lines_are_named(tmp_path: Path) -> None:
    (problem,) = read_sessions(folder(tmp_path, GOOD, b"a b\n" + b"\n" * 9))[1]
    assert (problem.count, problem.first) == (9, [2, 3, 4, 5, 6])
    assert "9 × empty line (test_sessions.txt, line 2, 3, 4, 5, 6, …)" in str(problem)


def test_invalid_and_unknown_test_clicks_are_misses_and_stay_cases(tmp_path: Path) -> None:
    benchmark = open_session_files(folder(tmp_path, GOOD, b"a \xff b new c\n"))
    ids = ["", *benchmark.vocabulary.item_ids]
    assert [ids[t] for t in benchmark.cases.targets] == ["", "b", "", "c"]
    assert [ids[h] for h in benchmark.cases.histories[3][-3:]] == ["", "a", "b"]
    assert benchmark.clicks_before.tolist() == [1, 2, 3, 4]


def test_invalid_training_clicks_are_left_out(tmp_path: Path) -> None:
    log, _ = read_sessions(folder(tmp_path, b"a \xff b\n\xff c\n" + GOOD, b"a b\n"))
    first = log.users == 0
    assert [log.item_ids[i] for i in log.items[first]] == ["a", "b"]
    assert log.starts[:3].tolist() == [0, 0, 2]
    assert "" not in log.ids_in(Split.TRAIN)


def test_line_ends_blanks_and_a_byte_order_mark_are_no_part_of_an_id(tmp_path: Path) -> None:
    log, problems = read_sessions(folder(tmp_path, b"\xef\xbb\xbfa  b\tc\r\n" + GOOD, b"a b"))
    assert set(log.item_ids) == {"a", "b", "c"}
    assert problems == []


@pytest.mark.parametrize(
    ("train", "test", "named"),
    [
        (None, b"a b\n", TRAIN),
        (GOOD, None, TEST),
        (b"", b"a b\n", TRAIN),
        (b"a\nb\n", b"a b\n", TRAIN),
        (b"a a a\n", b"a b\n", TRAIN),
        ("a b\n".encode("utf-16"), b"a b\n", TRAIN),
        (GOOD, b"\n\na\n", TEST),
    ],
    ids=[
        "no train file",
        "no test file",
        "empty",
        "sessions of one click",
        "one item only",
        "utf-16",
        "nothing to ask",
    ],
)
def test_nothing_to_learn_or_to_ask_is_one_clear_line(
    tmp_path: Path, train: bytes | None, test: bytes | None, named: str
) -> None:
    folder(tmp_path, train or b"", test or b"")
    for name, content in ((TRAIN, train), (TEST, test)):
        if content is None:
            (tmp_path / name).unlink()
    with pytest.raises(ConfigurationError, match=named):
        read_sessions(tmp_path)


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / TRAIN).mkdir()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_sessions(tmp_path)


line = st.lists(
    st.sampled_from([b"a", b"b", b"c", b"new", b"\xff", b"\x01", b"y" * 200]), max_size=5
)


@given(train=st.lists(line, max_size=12), test=st.lists(line, max_size=6))
def test_no_test_click_is_ever_dropped(
    tmp_path_factory: pytest.TempPathFactory, train: list[list[bytes]], test: list[list[bytes]]
) -> None:
    text = [b"".join(b" ".join(items) + b"\n" for items in lines) for lines in (train, test)]
    path = folder(tmp_path_factory.mktemp("sessions"), *text)
    try:
        log, problems = read_sessions(path)
    except ConfigurationError:
        usable = [[i for i in items if len(i) < 9 and i.isalpha()] for items in train]
        nothing_next = all(len(items) < 2 for items in test)
        one_item = len({i for items in usable for i in items}) < 2
        assert nothing_next or one_item or all(len(items) < 2 for items in usable)
        return
    assert len(log.cases(Split.TEST)) == sum(max(0, len(items) - 1) for items in test)
    counted = {(p.file, p.what): p.count for p in problems}
    for name, lines in ((TRAIN, train), (TEST, test)):
        clicks = [i for items in lines for i in items]
        expected = {
            "empty line": sum(not items for items in lines),
            "session of one click": sum(len(items) == 1 for items in lines),
            "item id that is not UTF-8": clicks.count(b"\xff"),
            "item id with a control character": clicks.count(b"\x01"),
            "item id of more than 128 characters": clicks.count(b"y" * 200),
        }
        assert {what: counted.get((name, what), 0) for what in expected} == expected
    known = {i.decode() for items in train for i in items if i in (b"a", b"b", b"c", b"new")}
    vocabulary = Vocabulary(sorted(known))
    assert set(log.ids_in(Split.TRAIN) + log.ids_in(Split.VALIDATION)) == known
    targets = vocabulary.rows(log.item_ids)[log.items[log.cases(Split.TEST)]]
    assert targets.astype(bool).tolist() == [
        i.decode("latin-1") in known for items in test for i in items[1:]
    ]


@given(train=st.binary(max_size=200), test=st.binary(max_size=200))
def test_no_bytes_crash_it(
    tmp_path_factory: pytest.TempPathFactory, train: bytes, test: bytes
) -> None:
    path = folder(tmp_path_factory.mktemp("bytes"), GOOD + train, b"a b\n" + test)
    log, _ = read_sessions(path)
    lines = (b"a b\n" + test).split(b"\n")
    blank = bytes.maketrans(b"\t\r", b"  ")
    clicks = [sum(map(bool, line.translate(blank).split(b" "))) for line in lines]
    assert len(log.cases(Split.TEST)) == np.maximum(np.array(clicks) - 1, 0).sum()
