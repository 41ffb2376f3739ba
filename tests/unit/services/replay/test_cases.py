"""Files as the world writes them (tests/cases): each is read rightly, or refused by name."""

from __future__ import annotations

import bz2
import json
import lzma
import zipfile
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from nextclick.services.cli.import_clicks import import_file
from nextclick.services.evaluate.evaluation import open_data
from nextclick.services.replay.cli import parse_columns, parse_mapping
from nextclick.services.replay.frame import to_frame
from nextclick.services.replay.log import ClickFile, ReadOptions, load
from nextclick.shared.errors import ConfigurationError
from nextclick.trainer.collect import EventLog

CASES = Path(__file__).parents[3] / "cases"


def told(file: ClickFile) -> dict[str, int]:
    """What was wrong, and how often."""
    return {problem.what: problem.count for problem in file.problems}


def types_of(file: ClickFile) -> Counter[str]:
    return Counter(file.event_type(place) for place in range(len(file)))


def test_rees46_has_types_of_which_removals_are_no_clicks() -> None:
    file = load(CASES / "rees46.csv")
    assert file.read == 40
    assert types_of(file) == {"view": 31, "cart": 3, "purchase": 3}
    assert file.read_types["remove_from_cart"] == (3, 0.0)
    assert pd.Timestamp(int(file.times[0]), unit="ms") == pd.Timestamp("2019-10-01 00:00:21")


def test_userbehavior_has_no_header() -> None:
    with pytest.raises(ConfigurationError, match=r"1, 2268321, 2520377, cart.*--columns"):
        load(CASES / "UserBehavior.csv")
    columns = parse_columns("user,item,category,type,time")
    file = load(CASES / "UserBehavior.csv", ReadOptions(columns=columns))
    assert file.read == len((CASES / "UserBehavior.csv").read_text().splitlines())
    assert set(types_of(file)) <= {"pv", "cart", "fav", "buy"}
    assert told(file).keys() <= {"duplicate click"}


def test_a_topic_dump_has_events_that_share_an_id() -> None:
    lines = (CASES / "topic_dump.jsonl").read_text().splitlines()
    file = load(CASES / "topic_dump.jsonl")
    assert file.read == len(lines)
    assert "impression" not in types_of(file)
    shown = sum('"impression"' in line for line in lines)
    assert len(file) == len(lines) - shown > 0
    ids = [json.loads(line)["event_id"] for line in lines if '"impression"' not in line]
    shared = len(ids) - len(set(ids))
    assert told(file) == {"click with the event id of another click": shared}
    assert shared > 0


def test_a_trackers_events_are_nested_and_guests_have_another_id() -> None:
    mapping = parse_mapping("user=userId|anonymousId,item=properties.product_id,time=timestamp")
    file = load(CASES / "segment.jsonl", ReadOptions(mapping=mapping))
    assert (file.read, len(file)) == (20, 20)
    assert any(user.startswith("anon-") for user in file.user_ids)
    assert file.times[0] % 1000 == 123


def test_the_first_line_does_not_decide_for_all() -> None:
    file = load(CASES / "keys_vary.jsonl")
    assert (len(file) + told(file).get("duplicate click", 0)) == 10
    assert told(file)["line without a user, an item or a time"] == 1


@pytest.mark.parametrize(("guests", "users"), [("drop", 0), ("each", 48), ("keep", 1)])
def test_guests_are_no_shopper(guests: str, users: int) -> None:
    file = load(CASES / "guests.csv", ReadOptions(guests=guests))
    known = {f"u{i}" for i in range(1000)}
    assert len(set(file.user_ids) - known) == users
    if guests != "keep":
        assert told(file)["click of a guest, without a user"] == 48
        assert len(file) == 12 + users


def test_a_missing_user_is_a_guest_however_it_is_written(tmp_path: Path) -> None:
    file = load(CASES / "nan_users.csv")
    assert all(user.startswith("u") for user in file.user_ids)
    assert told(file).keys() == {"click of a guest, without a user"}
    kept = load(CASES / "nan_users.csv", ReadOptions(guests="keep"))
    assert {"NaN", "NA", "NULL"} <= set(kept.user_ids)


@pytest.mark.parametrize("name", ["pandas_float_ids.csv", "p_float_ids.parquet"])
def test_ids_that_became_floats_are_integers_again(name: str) -> None:
    file = load(CASES / name)
    assert all(identifier.isdigit() for identifier in [*file.user_ids, *file.item_ids])
    if name.endswith("csv"):
        assert "item id with .0, as floats are written" in told(file)


def test_times_with_utc_behind_them() -> None:
    file = load(CASES / "t_bq.csv")
    assert pd.Timestamp(int(file.times[0]), unit="ms") == pd.Timestamp("2026-11-03 10:00:00")


def test_compact_times_are_no_milliseconds(tmp_path: Path) -> None:
    file = load(CASES / "t_compact.csv")
    assert file.time_unit == "compact"
    assert pd.Timestamp(int(file.times[0]), unit="ms") == pd.Timestamp("2026-11-03 10:00:00")
    path = tmp_path / "german.csv"
    path.write_text("user,item,time\nu,1,03.11.2026 10:00\nu,2,03.11.2026 10:01\n")
    german = load(path, ReadOptions(time_format="%d.%m.%Y %H:%M"))
    assert pd.Timestamp(int(german.times[0]), unit="ms") == pd.Timestamp("2026-11-03 10:00:00")
    with pytest.raises(ConfigurationError, match="--time-format"):
        load(path)


def test_lines_may_end_with_cr_alone() -> None:
    file = load(CASES / "mac_cr.csv")
    assert (
        len(file)
        == (CASES / "mac_cr.csv").read_bytes().count(b"\r")
        + (not (CASES / "mac_cr.csv").read_bytes().endswith(b"\r"))
        - 1
    )


def test_a_bots_session_is_capped(tmp_path: Path) -> None:
    path = tmp_path / "sessions.txt"
    path.write_text("2 3\n" + " ".join(["1"] * 70_000) + "\n")
    file = load(path)
    assert len(file) == 1002
    assert told(file) == {"click of a bot, after 1,000 of one session": 69_000}
    path.write_text(" ".join(["1"] * 70_000) + "\n")
    assert load(path).format == "sessions"


def test_a_session_table_with_more_columns() -> None:
    file = load(CASES / "e_s4.txt")
    assert (len(file), len(file.user_ids)) == (12, 3)
    assert file.times[0] == 1_442_004_589_439


def test_seconds_milliseconds_and_the_newest_first_are_one_file(tmp_path: Path) -> None:
    frames, facts = [], []
    for name in ("d_ms", "d_sec", "d_desc"):
        file = load(CASES / f"{name}.parquet")
        import_file(file, str(tmp_path / name))
        frames.append(EventLog(str(tmp_path / name)).read())
        facts.append(open_data(str(CASES / f"{name}.parquet"), 1_800_000, ReadOptions()).facts())
    assert len(frames[0]) == 2400
    pd.testing.assert_frame_equal(frames[0], frames[1])
    pd.testing.assert_frame_equal(frames[0], frames[2])
    assert facts[0] == facts[1] == facts[2]


def test_the_order_of_imports_does_not_matter(tmp_path: Path) -> None:
    october, november = load(CASES / "oct.csv"), load(CASES / "nov.csv")
    frames = []
    for name, files in (("a", (october, november)), ("b", (november, october))):
        for file in files:
            import_file(file, str(tmp_path / name))
        frames.append(EventLog(str(tmp_path / name)).read())
    assert len(frames[0]) == len(october) + len(november)
    pd.testing.assert_frame_equal(*frames)


def test_orc_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="is ORC; convert it to Parquet"):
        load(CASES / "b.orc")


def test_packed_files(tmp_path: Path) -> None:
    content = (CASES / "mac_cr.csv").read_bytes()
    (tmp_path / "a.xz").write_bytes(lzma.compress(content))
    (tmp_path / "a.bz2").write_bytes(bz2.compress(content))
    for name in ("a.xz", "a.bz2"):
        assert len(load(tmp_path / name)) == len(load(CASES / "mac_cr.csv"))
    for name in ("r.csv.gz", "r.csv.bz2", "deflated.zip"):
        assert len(load(CASES / name)) > 0
    (tmp_path / "cut.bz2").write_bytes(bz2.compress(content)[:-9])
    with pytest.raises(ConfigurationError, match="cut short"):
        load(tmp_path / "cut.bz2")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", content)
        archive.writestr("b.csv", content)
    with pytest.raises(ConfigurationError, match="holds 2 files"):
        load(tmp_path / "two.zip")


def test_types_are_imported(tmp_path: Path) -> None:
    file = load(CASES / "rees46.csv")
    import_file(file, str(tmp_path / "log"))
    frame = EventLog(str(tmp_path / "log")).read()
    assert frame["event_type"].value_counts().to_dict() == dict(types_of(file))
    assert frame["event_type"].tolist() == to_frame(file)["event_type"].tolist()
