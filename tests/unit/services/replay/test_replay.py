from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextclick.services.cli.import_clicks import import_file
from nextclick.services.replay import times
from nextclick.services.replay.cli import parse_mapping, parse_speed
from nextclick.services.replay.log import ClickFile, ReadOptions, load
from nextclick.services.replay.publish import State, fingerprint, read_state, write_state
from nextclick.shared.errors import ConfigurationError
from nextclick.trainer.collect import EventLog

NOON = 1_600_000_000_000
"""2020-09-13T12:26:40Z."""
WANTED = [("u1", "a", NOON), ("u2", "b", NOON + 1000), ("u1", "c", NOON + 2000)]


def clicks_of(file: ClickFile) -> list[tuple[str, str, int]]:
    return [
        (file.user_ids[user], file.item_ids[item], int(time))
        for user, item, time in zip(file.users, file.items, file.times, strict=True)
    ]


def written(folder: Path, content: str | bytes, name: str = "clicks.txt") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


FILES = {
    "csv": "user_id,item_id,timestamp\nu1,a,1600000000\nu2,b,1600000001\nu1,c,1600000002\n",
    "csv, semicolons, other columns": "x;Item;user;Time\n;a;u1;1600000000000\n"
    ";b;u2;1600000001000\n;c;u1;1600000002000\n",
    "csv, quotes": 'user,item,time\n"u1","a",2020-09-13T12:26:40Z\n'
    'u2,"b",2020-09-13 12:26:41\nu1,c,2020-09-13T14:26:42+02:00\n',
    "jsonl": '{"user_id":"u1","item_id":"a","timestamp":1600000000000,"z":1}\n'
    '{"user_id":"u2","item_id":"b","timestamp":1600000001000}\n'
    '{"user_id":"u1","item_id":"c","timestamp":1600000002000}\n',
    "rsc15": "SessionId\tItemId\tTime\nu1\ta\t1600000000.0\nu2\tb\t1600000001.000\n"
    "u1\tc\t1600000002\n",
    "retailrocket": "timestamp,visitorid,event,itemid,transactionid\n1600000000000,u1,view,a,\n"
    "1600000001000,u2,view,b,\n1600000002000,u1,view,c,\n",
    "diginetica": "sessionId;userId;itemId;timeframe;eventdate\nu1;NA;a;44800000;2020-09-13\n"
    "u2;NA;b;44801000;2020-09-13\nu1;NA;c;44802000;2020-09-13\n",
    "otto": '{"session":"u1","events":[{"aid":"a","ts":1600000000000,"type":"clicks"},'
    '{"aid":"c","ts":1600000002000,"type":"clicks"}]}\n'
    '{"session":"u2","events":[{"aid":"b","ts":1600000001000,"type":"clicks"}]}\n',
    "movielens": "userId,movieId,rating,timestamp\nu1,a,4.0,1600000000\nu2,b,1,1600000001\n"
    "u1,c,5,1600000002\n",
    "movielens, dat": "u1::a::4::1600000000\nu2::b::1::1600000001\nu1::c::5::1600000002\n",
}


@pytest.mark.parametrize("kind", FILES)
def test_every_format_is_recognised_and_read(tmp_path: Path, kind: str) -> None:
    file = load(written(tmp_path, FILES[kind]))
    assert file.format == kind.split(",")[0]
    assert clicks_of(file) == WANTED
    assert file.problems == []
    packed = load(written(tmp_path, gzip.compress(FILES[kind].encode()), "clicks.gz"))
    assert clicks_of(packed) == WANTED
    zipped = pa.compress(FILES[kind].encode(), "zstd", asbytes=True)
    assert clicks_of(load(written(tmp_path, zipped, "clicks.zst"))) == WANTED


def test_carts_and_orders_are_events_too(tmp_path: Path) -> None:
    otto = (
        '{"session":"u1","events":[{"aid":"a","ts":1600000000000,"type":"clicks"},'
        '{"aid":"a","ts":1600000001000,"type":"carts"},{"aid":"a","ts":1600000002000,'
        '"type":"orders"}]}\n'
    )
    retailrocket = (
        "timestamp,visitorid,event,itemid,transactionid\n1600000000000,u1,view,a,\n"
        "1600000001000,u1,addtocart,a,\n1600000002000,u1,transaction,a,7\n"
    )
    for content, types in (
        (otto, ["clicks", "carts", "orders"]),
        (retailrocket, ["view", "addtocart", "transaction"]),
    ):
        file = load(written(tmp_path, content))
        assert [file.event_type(place) for place in range(len(file))] == types
        assert [weight for _, weight in file.read_types.values()] == [1, 2, 3]


def test_the_original_files_without_a_header(tmp_path: Path) -> None:
    yoochoose = "1,2020-09-13T12:26:40.000Z,7,0\n2,2020-09-13T12:26:41.000Z,8,S\n"
    file = load(written(tmp_path, yoochoose))
    assert (file.format, file.time_unit) == ("rsc15", "iso")
    assert clicks_of(file) == [("1", "7", NOON), ("2", "8", NOON + 1000)]
    movielens = load(written(tmp_path, "1\t7\t3\t1600000000\n2\t8\t1\t1600000001\n"))
    assert movielens.format == "movielens"
    assert clicks_of(movielens) == [("1", "7", NOON), ("2", "8", NOON + 1000)]


def test_sessions_get_users_and_times(tmp_path: Path) -> None:
    file = load(written(tmp_path, "a b a\n\nc\n"))
    assert file.format == "sessions"
    (first, *_, last) = clicks_of(file)
    assert [user for user, _, _ in clicks_of(file)] == ["clicks.txt:1"] * 3 + ["clicks.txt:3"]
    assert last[2] - first[2] == 3_600_000
    packed = load(written(tmp_path, gzip.compress(b"a b a\n\nc\n"), "clicks.txt.gz"))
    assert clicks_of(packed) == clicks_of(file)
    other = load(written(tmp_path, "a b a\n\nc\n", "test.txt"))
    assert not {user for user, _, _ in clicks_of(other)} & {user for user, _, _ in clicks_of(file)}


@pytest.mark.parametrize("kind", ["ms", "s", "timestamp"])
def test_parquet(tmp_path: Path, kind: str) -> None:
    frame = pd.DataFrame(WANTED, columns=["user", "sku", "at"])
    if kind == "s":
        frame["at"] //= 1000
    if kind == "timestamp":
        frame["at"] = pd.to_datetime(frame["at"], unit="ms")
    frame.to_parquet(tmp_path / "clicks.parquet")
    mapping = {"item": "sku", "time": "at"}
    assert clicks_of(load(tmp_path / "clicks.parquet", ReadOptions(mapping=mapping))) == WANTED


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = written(tmp_path, "who,what,when\nu1,a,1600000000\n")
    with pytest.raises(ConfigurationError, match=r"which column is the user.*who, what, when"):
        load(path)
    with pytest.raises(ConfigurationError, match="no column 'whom'"):
        load(path, ReadOptions(mapping=parse_mapping("user=whom")))
    mapping = parse_mapping("user=who, item=what,time=when")
    assert clicks_of(load(path, ReadOptions(mapping=mapping))) == WANTED[:1]


def test_what_is_wrong_is_counted_with_its_lines(tmp_path: Path) -> None:
    lines = [
        "user_id,item_id,timestamp",
        "u1,a,1600000002",
        "u1,a",
        "u2,,1600000001",
        f"{'u' * 129},a,1600000001",
        "u2,b,yesterday",
        "u2,b,-5",
        'u2,"b,1600000001',
        "u1,a,1600000002",
        "u1,\x07,1600000002",
        "u2,b,1600000001",
    ]
    content = "\n".join(lines).encode() + b"\nu3,\xff,1600000003\n"
    file = load(written(tmp_path, content))
    assert clicks_of(file) == [("u2", "b", NOON + 1000), ("u1", "a", NOON + 2000)]
    assert file.unsorted
    told = {problem.what: problem.first for problem in file.problems}
    assert told == {
        "line without 3 cells": [3],
        "empty item id": [4],
        "user id of more than 128 characters": [5],
        "click without a readable time": [6, 7],
        "line with an open quote": [8],
        "duplicate click": [9],
        "item id with a control character": [10],
        "line that is not utf-8": [12],
    }


LONG = b"user_id,item_id,timestamp\n" + b"u,i,1600000000\n" * 9000
USELESS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "blank": (b"\n \n", "is empty"),
    "utf-16": ("user_id,item_id,timestamp\nu,i,1\n".encode("utf-16"), "UTF-16"),
    "gzip cut short": (gzip.compress(LONG, mtime=0)[:60], "cut short"),
    "header alone": (b"user_id,item_id,timestamp\n", "holds no click"),
    "no time": (
        b"user_id,item_id,timestamp\nu,i,never\n",
        "holds no click.*without a readable time.*line 2",
    ),
    "unknown columns": (b"a,b\n1,2\n", "which format is this"),
    "blanks between": (b"user item time\nu i 1600000000\n", "--format sessions or --format csv"),
    "time too small": (b"user_id,item_id,timestamp\nu,i,12\n", "holds no click.*--time-unit"),
    "no parquet": (b"PAR1 and then nothing", "Parquet"),
    "unknown fields": (b'{"a": 1}\n', "which column is the user"),
}


@pytest.mark.parametrize(("content", "complaint"), USELESS.values(), ids=USELESS)
def test_a_file_that_is_no_use_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        load(written(tmp_path, content))


@pytest.mark.parametrize("first", ["nan", "inf", "0", "12", "1e30", ""])
def test_one_odd_time_at_the_beginning_does_not_decide_for_the_file(
    tmp_path: Path, first: str
) -> None:
    file = load(
        written(tmp_path, f"user,item,time\nu0,x,{first}\nu1,a,1600000000\nu2,b,1600000001\n")
    )
    assert file.time_unit == "s"
    assert clicks_of(file) == WANTED[:2]
    assert [problem.first for problem in file.problems] == [[2]]


def test_a_table_with_blanks_between_can_be_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, "user item time\nu1 a 1600000000\nu2 b 1600000001\n")
    assert clicks_of(load(path, ReadOptions(format="csv"))) == WANTED[:2]


def test_half_a_surrogate_pair_is_no_id(tmp_path: Path) -> None:
    lines = [
        {"user": "\ud800", "item": "a", "time": 1600000000},
        {"user": "u1", "item": "\udfff", "time": 1600000000},
        {"user": "u1", "item": "a", "time": 1600000000},
    ]
    file = load(written(tmp_path, "\n".join(map(json.dumps, lines))))
    assert clicks_of(file) == WANTED[:1]
    assert {problem.what: problem.first for problem in file.problems} == {
        "user id with half a surrogate pair": [1],
        "item id with half a surrogate pair": [2],
    }
    assert fingerprint(file)


def test_refusals_by_option(tmp_path: Path) -> None:
    path = written(tmp_path, FILES["csv"])
    for wrong in (
        {"format": "xml"},
        {"time_unit": "h"},
        {"encoding": "klingon"},
        {"guests": "hug"},
    ):
        with pytest.raises(ConfigurationError, match=next(iter(wrong.values()))):
            load(path, ReadOptions(**wrong))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="no column visitorid"):
        load(path, ReadOptions(format="retailrocket"))
    latin = written(tmp_path, "user_id,item_id,timestamp\nu,ü,1600000000\n".encode("latin-1"))
    assert clicks_of(load(latin, ReadOptions(encoding="latin-1"))) == [("u", "ü", NOON)]


ids = st.text(
    st.characters(blacklist_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=9
).filter(lambda text: not text.endswith(".0"))


@given(st.lists(st.tuples(ids, ids, st.integers(10**11, 10**13)), min_size=1, max_size=20))
def test_whatever_is_written_as_jsonl_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int]]
) -> None:
    lines = [json.dumps({"user_id": u, "item_id": i, "timestamp": t}) for u, i, t in rows]
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    path.write_text("\n".join(lines))
    file = load(path, ReadOptions(format="jsonl", time_unit="ms", guests="keep"))
    expected = list(dict.fromkeys(rows))
    assert clicks_of(file) == sorted(expected, key=lambda row: row[2])
    assert len({file.event_id(place) for place in range(len(file))}) == len(expected)


@given(st.integers(10**11, 4 * 10**12), st.sampled_from(["s", "ms", "us", "ns"]))
def test_units_are_told_by_size(moment: int, unit: str) -> None:
    factor = {"s": 0.001, "ms": 1, "us": 1000, "ns": 1_000_000}[unit]
    text = str(moment // 1000) if unit == "s" else str(moment * int(factor))
    assert times.unit_of(text) == unit
    assert times.to_millis(unit)(text) == (moment // 1000 * 1000 if unit == "s" else moment)


@pytest.mark.parametrize("text", ["", "inf", "nan", "1e99", "-99999999999", "2020-13-01", "x"])
def test_what_is_no_time(text: str) -> None:
    for unit in times.UNITS:
        with pytest.raises(ValueError, match=r".*"):
            times.to_millis(unit)(text)


def test_speeds() -> None:
    assert [parse_speed(text) for text in ("1x", "0.5x", "100", "max")] == [1, 0.5, 100, math.inf]
    for wrong in ("0x", "fast", "-1x", "1e3x", ""):
        with pytest.raises(ConfigurationError, match="--speed"):
            parse_speed(wrong)
    for wrong in ("user", "who=x", "user="):
        with pytest.raises(ConfigurationError, match="--map"):
            parse_mapping(wrong)


def test_a_file_is_imported_once(tmp_path: Path) -> None:
    file = load(written(tmp_path, FILES["csv"]))
    folder = str(tmp_path / "log")
    assert "3 clicks imported" in import_file(file, folder)
    assert "already" in import_file(load(written(tmp_path, FILES["csv"], "copy.csv")), folder)
    other = load(written(tmp_path, FILES["csv"] + "u9,z,1600000009\n", "other.csv"))
    import_file(other, folder)
    frame = EventLog(folder).read()
    assert frame["event_id"].is_unique
    rows = list(frame[["user_id", "item_id", "timestamp"]].itertuples(index=False, name=None))
    assert rows == [*WANTED, ("u9", "z", NOON + 9000)]


def test_the_state_of_a_replay(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert read_state(path) is None
    state = State("f", "clicks", 3, "")
    write_state(path, state)
    assert read_state(path) == state
    path.write_text("{}")
    with pytest.raises(ConfigurationError, match="--restart"):
        read_state(path)
    with pytest.raises(ConfigurationError, match="--state"):
        write_state(tmp_path / "no folder" / "state.json", state)


def test_fingerprints_tell_files_apart(tmp_path: Path) -> None:
    one = load(written(tmp_path, FILES["csv"]))
    same = load(written(tmp_path, FILES["jsonl"]))
    other = load(written(tmp_path, FILES["csv"].replace("u2", "u3")))
    assert fingerprint(one) == fingerprint(same)
    assert fingerprint(one) != fingerprint(other)
