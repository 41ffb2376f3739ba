"""Forgetting a user in the event log: no version, no file and no later click of theirs is left."""

from __future__ import annotations

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from nextclick.shared.runtime import metrics
from nextclick.trainer.collect import EventLog, Row, event_log
from nextclick.trainer.collect.maintenance import take_lease
from nextclick.trainer.collect.tombstones import Tombstones
from tests.unit.trainer.collect.test_event_log import DAY_MS, frame_of, ids, put

USER = "u1-who-is-forgotten"


def clicks_of(user: str, *times: int) -> list[Row]:
    return [Row(f"{user}-{at}", user, f"i{at % 5}", at, "click", at) for at in times]


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    """Clicks of two users, in several files, of which some were replaced."""
    log = EventLog(str(tmp_path / "log"))
    for n, at in enumerate(range(10, 20, 2)):
        put(log, 0, 2 * n, [*clicks_of(USER, at), *clicks_of("other", at + 1)])
    log.import_clicks(pd.DataFrame(clicks_of(USER, 5), columns=Row._fields), "a file")
    return log


def files_with(log: EventLog, text: str) -> list[str]:
    assert log.folder is not None
    return [
        path.name
        for path in log.folder.rglob("*")
        if path.is_file() and text.encode() in path.read_bytes()
    ]


def test_no_file_of_any_version_holds_the_user(log: EventLog) -> None:
    assert files_with(log, USER)
    erased = log.forget(USER, moment=100)
    assert (erased.rows, erased.unfinished) == (6, ())
    assert erased.files >= 5
    assert erased.version_after > erased.version_before
    assert files_with(log, USER) == []
    assert set(log.read()["user_id"]) == {"other"}
    assert log.next_offsets([0]) == {0: 10}, "reading goes on where it was"
    assert log.count() == 5


def test_others_can_still_filter_by_text(log: EventLog) -> None:
    """Deltalake's own delete writes what pyarrow cannot filter."""
    log.forget(USER, moment=100)
    assert log.folder is not None
    table = DeltaTable(str(log.folder))
    assert table.to_pandas(filters=[("user_id", "=", "other")])["event_id"].nunique() == 5
    assert len(table.to_pandas(filters=[("item_id", "=", "i1")])) == 1


def test_twice_finds_nothing_and_changes_nothing_but_the_moment(log: EventLog) -> None:
    first = log.forget(USER, moment=100)
    again = log.forget(USER, moment=200)
    assert (again.rows, again.user_hash) == (0, first.user_hash)
    assert again.models == first.models == 1, "the models of then still know them"
    assert log.tombstones().count == 1
    tombstone = log.tombstones().get(USER)
    assert tombstone is not None
    assert tombstone.moment == 200


def test_an_unknown_user_gets_a_tombstone_and_costs_no_model(log: EventLog) -> None:
    erased = log.forget("nobody", moment=100)
    assert (erased.rows, erased.models) == (0, 0)
    assert log.tombstones().count == 0
    assert put(log, 0, 10, clicks_of("nobody", 50)) == 0


def test_models_may_know_a_user_whom_the_log_has_dropped(log: EventLog) -> None:
    first = log.forget("expired", moment=100, keep_days=3)
    assert (first.rows, first.models, log.tombstones().count) == (0, 1, 1)
    again = log.forget("expired", moment=200, keep_days=3)
    assert (again.models, log.tombstones().count) == (1, 1), "the log would hold what came since"
    later = log.forget("expired", moment=200 + 3 * DAY_MS, keep_days=3)
    assert (later.models, log.tombstones().count) == (2, 2)


def test_late_clicks_are_left_out_and_a_new_customer_is_not(log: EventLog) -> None:
    log.forget(USER, moment=100)
    before = metrics.FORGOTTEN_CLICKS._value.get()
    happened, arrived, new = (
        Row("happened", USER, "i", 99, "click", 500),
        Row("arrived", USER, "i", 500, "click", 99),
        Row("new", USER, "i", 101, "click", 101),
    )
    assert put(log, 0, 10, [happened, arrived, new]) == 1
    assert log.import_clicks(pd.DataFrame([happened, new], columns=Row._fields)) == 1
    assert metrics.FORGOTTEN_CLICKS._value.get() - before == 3
    assert log.next_offsets([0]) == {0: 13}, "they are not read again"
    assert set(ids(log.read())) >= {"new"}
    assert not {"happened", "arrived"} & set(ids(log.read()))
    assert log.forget(USER, moment=600).rows == 2, "and may be forgotten again"


def test_rows_that_slipped_in_are_not_read(log: EventLog, tmp_path: Path) -> None:
    """It died after the tombstone."""

    def die(step: str) -> None:
        raise InterruptedError(step)

    with pytest.raises(InterruptedError, match="tombstone"):
        log.forget(USER, moment=100, on_step=die)
    assert files_with(log, USER)
    assert set(log.read()["user_id"]) == {"other"}
    assert ids(log.read(newest=3)) == ["other-15", "other-17", "other-19"]
    assert log.forget(USER, moment=100).rows == 6
    assert files_with(log, USER) == []


def test_an_append_that_began_before_the_tombstone_looks_again(log: EventLog) -> None:
    """Each of the table's commits is one of two in a row: the second sees the first."""
    late = [*clicks_of(USER, 50), *clicks_of("other", 51)]
    stale = EventLog(str(log.folder))
    clicks = stale._clicks
    current, before = clicks.current, clicks.current()

    def current_of_before() -> DeltaTable:
        """The version that it has; the next call brings it up to date."""
        clicks.current = current  # type: ignore[method-assign]
        return before

    log.forget(USER, moment=100)
    clicks.current = current_of_before  # type: ignore[method-assign]
    assert put(stale, 0, 10, late) == 1
    assert clicks.current is not current_of_before
    assert set(log.read()["user_id"]) == {"other"}
    (left,) = files_with(log, USER)
    assert log.forget(USER, moment=200).files >= 1, "what its first attempt has left"
    assert files_with(log, USER) == []
    assert left.endswith(".parquet")


def test_what_crashes_and_compactions_have_left_goes_too(log: EventLog) -> None:
    folder = log.folder
    assert folder is not None
    with_user = files_with(log, USER)
    shutil.copy(folder / with_user[0], folder / "orphan.parquet")
    shutil.copy(folder / with_user[0], folder / "half.parquet#1")
    os.utime(folder / "half.parquet#1", (0, 0))
    log.maintain()
    (folder / "foreign.parquet").write_bytes(b"not one of ours")
    log.forget(USER, moment=100)
    assert files_with(log, USER) == []
    assert (folder / "foreign.parquet").exists()


def test_maintenance_removes_what_nobody_knows_after_a_day(log: EventLog) -> None:
    folder = log.folder
    assert folder is not None
    for name, age in (("old", 100_000), ("young", 1000)):
        shutil.copy(folder / files_with(log, USER)[0], folder / f"{name}.parquet")
        shutil.copy(folder / files_with(log, USER)[0], folder / f"{name}.parquet#1")
        for path in folder.glob(f"{name}*"):
            os.utime(path, (time.time() - age,) * 2)
    put(log, 1, 0, clicks_of("other", 70))
    put(log, 1, 1, clicks_of("other", 71))
    assert log.maintain().files_after == 1
    assert sorted(path.name for path in folder.glob("*y*ng*")) == [
        "young.parquet",
        "young.parquet#1",
    ]
    assert not list(folder.glob("old*"))


def test_the_tables_log_keeps_no_user_id(log: EventLog) -> None:
    log.forget(USER, moment=100)
    assert log.folder is not None
    commits = sorted((log.folder / "_delta_log").glob("*.json"))
    assert not [path for path in commits if USER in path.read_text()]
    operations = [json.loads(line) for path in commits for line in path.read_text().splitlines()]
    (delete,) = [o for o in operations if "predicate" in json.dumps(o.get("commitInfo"))]
    assert log.tombstones().hash_of(USER) in json.dumps(delete)


def test_several_at_once_beside_a_collector(log: EventLog) -> None:
    users = [f"user-{n}" for n in range(4)]
    put(log, 1, 0, [row for user in users for row in clicks_of(user, 20, 21)])
    folder = str(log.folder)

    def forget(user: str) -> int:
        return EventLog(folder).forget(user, moment=100).rows

    def collect(_: str) -> int:
        mine = EventLog(folder)
        return sum(put(mine, 2, n, clicks_of("other", 1000 + n)) for n in range(10))

    with ThreadPoolExecutor(5) as threads:
        collected = threads.submit(collect, "")
        assert list(threads.map(forget, users)) == [2] * 4
        assert collected.result() == 10
    frame = log.read()
    assert not set(frame["user_id"]) & set(users)
    assert len(frame) == 6 + 5 + 10
    tombstones = log.tombstones()
    assert tombstones.count == 4
    assert all(tombstones.get(user) for user in users)
    for user in users:
        assert files_with(log, user) == []


def test_a_read_that_loses_its_files_reads_the_next_version(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_once = [True]
    arrival_of = event_log.arrival_of

    def forget_meanwhile(*arguments: object) -> int | None:
        found = arrival_of(*arguments)  # type: ignore[arg-type]
        if forget_once:
            forget_once.clear()
            EventLog(str(log.folder)).forget(USER, moment=100)
        return found

    monkeypatch.setattr(event_log, "arrival_of", forget_meanwhile)
    assert ids(log.read(newest=3)) == ["other-15", "other-17", "other-19"]


def test_a_compaction_is_waited_for(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    assert take_lease(log._clicks, log._clicks.current())
    erased = log.forget(USER, moment=100, wait_seconds=0.2)
    assert erased.rows == 6
    assert "is being compacted" in erased.unfinished[0]
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 3700)  # its lease has run out
    assert log.forget(USER, moment=100).unfinished == ()


def test_files_of_the_former_format_are_named(log: EventLog) -> None:
    assert log.folder is not None
    (log.folder / "clicks-p00000-000000000000000000-000000000000000001.parquet").touch()
    assert "clicks-….parquet" in log.forget(USER, moment=100).unfinished[0]


def test_imports_of_all_kinds_of_ids(tmp_path: Path) -> None:
    """The table's SQL finds the same hash as Python does."""
    log = EventLog(str(tmp_path))
    names = ["O'Brien", "ü😀", 'a"b\\', "--", "%", "0' OR '1'='1"]
    for name in names:
        log.import_clicks(frame_of(1, 2).assign(user_id=name))
    for name in names:
        assert log.forget(name, moment=100).rows == 2
    assert log.count() == 0


@settings(max_examples=30)
@given(st.dictionaries(st.text(max_size=3), st.integers(0, 100), max_size=4), st.data())
def test_many_clicks_are_judged_as_one_by_one(moments: dict[str, int], data: st.DataObject) -> None:
    properties: dict[str, str | None] = {}
    for user, moment in moments.items():
        properties |= Tombstones.of(properties).adding(user, moment, "00")
    tombstones = Tombstones.of(properties)
    user = st.sampled_from([*moments, "nobody"])
    clicks = data.draw(st.lists(st.tuples(user, st.integers(0, 100)), min_size=1))
    frame = pd.DataFrame(clicks, columns=["user_id", "first"])
    found = tombstones.forbidden(frame["user_id"], frame["first"].to_numpy())
    assert found.tolist() == [tombstones.forbid(*click) for click in clicks]
    assert found.tolist() == [u in moments and at <= moments[u] for u, at in clicks]
