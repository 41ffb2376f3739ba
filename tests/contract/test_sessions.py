"""The contract of the session store, on every implementation."""

from __future__ import annotations

import math
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextclick.shared.embedded import Server, start_redis
from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.messages import Place
from nextclick.shared.model import Vocabulary
from nextclick.shared.past import PAST_KEPT, PastClick
from nextclick.shared.redis import (
    ENTRIES_KEPT,
    MAX_UNCOMMITTED_CLICKS_PER_USER,
    MemorySessions,
    RedisSessions,
    SessionStore,
)
from nextclick.shared.redis.sessions import Session
from nextclick.shared.schemas import Click
from nextclick.shared.windows import HISTORY_LENGTH
from nextclick.trainer.data import Split, click_log, samples
from tests.backend import Backend
from tests.redis_cluster import Cluster
from tests.simulation.redis import LocalRedis

GAP_MS = 1_800_000
MakeStore = Callable[..., SessionStore]


def click(item: str, at: int = 0, user: str = "u", event_id: str | None = None) -> Click:
    return Click(event_id=event_id or uuid.uuid4().hex, user_id=user, item_id=item, timestamp=at)


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose settings a test may change."""
    server = start_redis(tmp_path_factory.mktemp("redis"), None)
    yield server
    server.kill()


@pytest.fixture(params=["memory", "simulated", "redis", "cluster"])
def make_store(request: pytest.FixtureRequest, key_prefix: str) -> Iterator[MakeStore]:
    made: list[SessionStore] = []

    known = MemorySessions(gap_ms=0, ttl_seconds=1)._users, LocalRedis()

    def make(gap_ms: int = GAP_MS, ttl_seconds: int = 3600, past_days: float = 0) -> SessionStore:
        """All that a test makes have the same sessions."""
        if request.param == "memory":
            store = MemorySessions(gap_ms=gap_ms, ttl_seconds=ttl_seconds, past_days=past_days)
            store._users = known[0]
            return store
        if request.param == "simulated":
            return simulated_store(gap_ms, ttl_seconds, past_days, known[1])
        where = request.getfixturevalue("backend" if request.param == "redis" else "redis_cluster")
        made.append(redis_store(where, key_prefix, gap_ms, ttl_seconds, past_days))
        return made[-1]

    yield make
    for store in made:
        store.close()


def simulated_store(
    gap_ms: int, ttl_seconds: int, past_days: float = 0, server: LocalRedis | None = None
) -> RedisSessions:
    """sessions.lua as the simulation has it (tests/simulation/redis.py)."""
    return RedisSessions(
        "redis://simulated",
        key_prefix="",
        gap_ms=gap_ms,
        ttl_seconds=ttl_seconds,
        timeout_seconds=5,
        past_days=past_days,
        connect=lambda url, timeout, **_: cast(Any, server or LocalRedis()),
    )


def redis_store(
    where: Backend | Cluster, prefix: str, gap_ms: int, ttl_seconds: int, past_days: float = 0
) -> RedisSessions:
    return RedisSessions(
        where.redis_url if isinstance(where, Backend) else where.url,
        key_prefix=prefix,
        gap_ms=gap_ms,
        ttl_seconds=ttl_seconds,
        timeout_seconds=5,
        cluster=isinstance(where, Cluster),
        past_days=past_days,
    )


def test_history_grows_in_order_and_holds_the_last_ten(make_store: MakeStore) -> None:
    histories = make_store().append([click(str(i), at=i) for i in range(15)])
    for i, history in enumerate(histories):
        assert history == [str(j) for j in range(max(0, i - HISTORY_LENGTH + 1), i + 1)]


def test_one_batch_or_one_call_per_click_is_the_same(make_store: MakeStore) -> None:
    clicks = [click(str(i), user=f"u{i % 3}") for i in range(30)]
    store = make_store()
    one_by_one = [store.append([c])[0] for c in clicks]
    renamed = [c.model_copy(update={"user_id": c.user_id + "'"}) for c in clicks]
    assert store.append(renamed) == one_by_one


def test_reading_gives_the_history_answered_last(make_store: MakeStore) -> None:
    store = make_store(gap_ms=100)
    for i in range(60):  # every seventh click comes after a pause, and some come late
        at = i * 10 + (i // 7) * 500 - (i % 3) * 20
        (history,) = store.append([click(str(i), at=max(0, at), user="ü")])
        (session,) = store.read(["ü"])
        assert session.history == history
    assert session.last_click == max(i * 10 + (i // 7) * 500 - (i % 3) * 20 for i in range(60))


def test_a_forgotten_user_begins_anew(make_store: MakeStore) -> None:
    store = make_store()
    first = click("1", user="ü")
    store.append([first, click("2", user="other")])
    assert store.forget("ü")
    assert not store.forget("ü")
    assert store.read(["ü", "other"]) == [Session([]), Session(["2"], 0)]
    assert store.append([first, click("3", user="ü")]) == [["1"], ["1", "3"]]


def test_reading_changes_nothing(make_store: MakeStore) -> None:
    store = make_store()
    first = click("1")
    store.append([first])
    assert store.read(["u", "nobody", "u"]) == [Session(["1"], 0), Session([]), Session(["1"], 0)]
    assert store.append([first, click("2")]) == [["1"], ["1", "2"]]
    assert store.read([]) == []


def test_a_preview_is_what_appending_returns_and_changes_nothing(make_store: MakeStore) -> None:
    store = make_store()
    clicks = [click(f"i{n}", at=n * GAP_MS // 4, event_id=f"e{n}") for n in range(40)]
    clicks += [click("late", at=5), click("next session", at=100 * GAP_MS), clicks[39], clicks[2]]
    for done in range(0, len(clicks), 3):
        following = clicks[done : done + 3]
        foreseen = store.preview(following)
        assert store.preview(following) == foreseen
        assert store.append(following) == foreseen
    assert store.preview([click("a", user="new")]) == [["a"]]
    assert store.read(["new"]) == [Session([])]


def test_nothing_appended_nothing_returned(make_store: MakeStore) -> None:
    assert make_store().append([]) == []


def test_users_do_not_mix(make_store: MakeStore) -> None:
    histories = make_store().append([click("1", user="a"), click("2", user="b")])
    assert histories == [["1"], ["2"]]


def test_applying_again_returns_the_first_history_and_changes_nothing(
    make_store: MakeStore,
) -> None:
    store = make_store()
    clicks = [click(str(i), at=i) for i in range(ENTRIES_KEPT)]
    first = store.append(clicks)
    replayed = MAX_UNCOMMITTED_CLICKS_PER_USER
    assert store.append(clicks[-replayed:]) == first[-replayed:]
    assert store.append([click("next", at=99)])[0][-2:] == [str(ENTRIES_KEPT - 1), "next"]


def test_a_pause_longer_than_the_gap_starts_a_new_session(make_store: MakeStore) -> None:
    store = make_store()
    histories = store.append(
        [click("1", at=0), click("2", at=GAP_MS), click("3", at=2 * GAP_MS + 1)]
    )
    assert histories == [["1"], ["1", "2"], ["3"]]


def test_gap_zero_never_ends_a_session(make_store: MakeStore) -> None:
    histories = make_store(gap_ms=0).append([click("1", at=0), click("2", at=10**12)])
    assert histories[-1] == ["1", "2"]


def test_a_late_click_neither_reorders_nor_splits(make_store: MakeStore) -> None:
    store = make_store()
    histories = store.append(
        [click("1", at=2 * GAP_MS), click("late", at=0), click("3", at=2 * GAP_MS + 1)]
    )
    assert histories[-1] == ["1", "late", "3"]


TEXTS = {
    "colon": "a:b",
    "hash tag": "{tag}",
    "umlaut": "ü",
    "NUL": "\x00",
    "beyond the BMP": "\U0001f415",
    "blank": " ",
    "star": "*",
    "128 characters": "x" * 128,
    "a command": "'; FLUSHALL",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_ids_of_any_text_are_stored_unchanged(make_store: MakeStore, text: str) -> None:
    store = make_store()
    assert store.append([click(text, user=text, event_id=text[:64])]) == [[text]]
    assert store.append([click("2", user=text)]) == [[text, "2"]]


def at_offsets(clicks: list[Click], first: int = 0, partition: int = 0) -> list[Place]:
    return [Place(partition, first + i) for i in range(len(clicks))]


def test_a_replay_of_everything_changes_nothing(make_store: MakeStore) -> None:
    """Committed offsets were lost: what is too old to be answered again is not appended again."""
    store = make_store()
    clicks = [click(str(i), at=i) for i in range(100)]
    first = store.append(clicks, at_offsets(clicks))
    again = store.append(clicks, at_offsets(clicks))
    exact = MAX_UNCOMMITTED_CLICKS_PER_USER + 1
    assert again == [[]] * (100 - exact) + first[-exact:]
    assert store.append([click("next", at=100)], [Place(0, 100)]) == [[*first[-1][1:], "next"]]


def test_a_replay_without_its_whole_history_gets_none(make_store: MakeStore) -> None:
    store = make_store()
    clicks = [click(str(i), at=i) for i in range(ENTRIES_KEPT + 1)]
    store.append(clicks)
    assert store.append(clicks[1:2]) == [[]]  # the oldest held; what went before it is not


def test_a_late_replay_appends_nothing(make_store: MakeStore) -> None:
    """Another worker has long taken over and gone on, beyond what is remembered."""
    store = make_store()
    clicks = [click(str(i), at=i) for i in range(80)]
    histories = store.append(clicks, at_offsets(clicks))
    assert store.append(clicks[20:30], at_offsets(clicks[20:30], first=20)) == [[]] * 10
    assert store.append(clicks[79:], [Place(0, 79)]) == histories[79:]


def test_offsets_of_a_recreated_topic_start_at_zero_again(make_store: MakeStore) -> None:
    store = make_store()
    store.append([click("1", at=5)], [Place(0, 1000)])
    assert store.append([click("2", at=6)], [Place(0, 0)]) == [["1", "2"]]
    assert store.append([click("3", at=6)], [Place(0, 1)]) == [["1", "2", "3"]]


def test_a_user_who_moves_to_another_partition_goes_on(make_store: MakeStore) -> None:
    store = make_store()
    store.append([click("1", at=5)], [Place(0, 1000)])
    assert store.append([click("2", at=5)], [Place(3, 7)]) == [["1", "2"]]


def test_a_late_click_lies_after_the_newest_and_is_appended(make_store: MakeStore) -> None:
    store = make_store()
    store.append([click("1", at=50)], [Place(0, 10)])
    assert store.append([click("2", at=40)], [Place(0, 11)]) == [["1", "2"]]


@settings(max_examples=100, deadline=None)
@given(
    events=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5)), max_size=120),
    replays=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 120)), max_size=4),
)
def test_whatever_is_replayed_gets_its_first_history_or_none(
    events: list[tuple[str, int]], replays: list[tuple[int, int]]
) -> None:
    """Of stretches that end anywhere before the newest click, as a worker left behind would."""
    clicks = [
        Click(event_id=f"{i}", user_id=user, item_id=str(i), timestamp=i * 1000 - late * 1500)
        if i * 1000 >= late * 1500
        else Click(event_id=f"{i}", user_id=user, item_id=str(i), timestamp=0)
        for i, (user, late) in enumerate(events)
    ]
    places = at_offsets(clicks)
    expected = MemorySessions(gap_ms=3000, ttl_seconds=60).append(clicks)
    store = MemorySessions(gap_ms=3000, ttl_seconds=60)
    half = len(clicks) // 2
    assert store.append(clicks[:half], places[:half]) == expected[:half]
    for start, end in replays:
        part = slice(start, min(end, half))
        for first, again in zip(
            expected[part], store.append(clicks[part], places[part]), strict=True
        ):
            assert again in (first, [])
    assert store.append(clicks[half:], places[half:]) == expected[half:]


clicks_of_few_users = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),  # user
        st.integers(0, 12),  # event: few, so that some come again
        st.sampled_from(["1", "2", "3"]),  # item
        st.integers(0, 6).map(lambda half_gaps: half_gaps * GAP_MS // 2),
        st.builds(Place, st.integers(-1, 1), st.integers(-1, 12)),
    ),
    max_size=60,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=clicks_of_few_users, cut=st.integers(0, 60), keeps_past=st.booleans())
@pytest.mark.parametrize("where", ["backend", "redis_cluster"])
def test_redis_and_memory_agree_on_everything(
    request: pytest.FixtureRequest,
    where: str,
    name: str,
    drawn: list[tuple[str, int, str, int, Place]],
    cut: int,
    keeps_past: bool,
) -> None:
    clicks = [
        Click(
            event_id=f"{user}{event}",
            user_id=user,
            item_id=item,
            timestamp=at,
            event_type=("click", "Purchase")[event % 2],
        )
        for user, event, item, at, _ in drawn
    ]
    places = [place for *_, place in drawn]
    past_days = 60 / 86_400 if keeps_past else 0
    memory = MemorySessions(gap_ms=GAP_MS, ttl_seconds=60, past_days=past_days)
    prefix = f"test:{name}:{uuid.uuid4().hex}:"  # gone after a minute
    real = redis_store(request.getfixturevalue(where), prefix, GAP_MS, 60, past_days)
    simulated = simulated_store(GAP_MS, 60, past_days)
    for part in (slice(cut), slice(cut, None)):
        for store in (memory, simulated):
            assert store.preview(clicks[part]) == real.preview(clicks[part])
        if keeps_past:
            sessions = real.append_with_past(clicks[part], places[part])
            assert sessions == memory.append_with_past(clicks[part], places[part])
            assert sessions == simulated.append_with_past(clicks[part], places[part])
        else:
            histories = real.append(clicks[part], places[part])
            assert histories == memory.append(clicks[part], places[part])
            assert histories == simulated.append(clicks[part], places[part])
    real.close()


@settings(max_examples=100, deadline=None)
@given(
    drawn=st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.sampled_from(["1", "2", "3", "4"]),
            st.integers(0, 8).map(lambda half_gaps: half_gaps * GAP_MS // 2),
        ),
        min_size=1,
        max_size=50,
    )
)
def test_training_sees_exactly_the_histories_that_serving_saw(
    drawn: list[tuple[str, str, int]],
) -> None:
    """No skew: a click's training window is the history that its user had just been served."""
    clicks = [click(item, at=at, user=user) for user, item, at in drawn]
    served: dict[str, list[str]] = {}
    expected = []
    store = MemorySessions(gap_ms=GAP_MS, ttl_seconds=3600)
    for c in clicks:
        before = served.get(c.user_id)
        (history,) = store.append([c])
        served[c.user_id] = history
        if len(history) > 1:  # not the first of its session: `before` predicts it
            assert before is not None
            expected.append((before, c.item_id))

    frame = pd.DataFrame([c.model_dump() for c in clicks])
    log = click_log(frame, GAP_MS, validation=0.0, test=0.0)
    vocabulary = Vocabulary([]).extended(log.item_ids)
    trained = samples(log, Split.TRAIN, vocabulary)
    ids = np.array(["", *vocabulary.item_ids])
    got = [
        ([str(i) for i in ids[row[row > 0]]], str(ids[target]))
        for row, target in zip(trained.histories, trained.targets, strict=True)
    ]
    assert sorted(got) == sorted(expected)


def past_of(clicks: list[Click]) -> list[PastClick]:
    clocks = accumulate((c.timestamp for c in clicks), max)
    return [
        PastClick(c.item_id, at, c.event_type == "purchase")
        for c, at in zip(clicks, clocks, strict=True)
    ][-PAST_KEPT:]


def long_past(count: int) -> list[Click]:
    """Ten clicks a session, every third a purchase, some of them late."""
    return [
        click(f"i{n % 90}", at=n * GAP_MS // 8 + n // 10 * GAP_MS - n % 5 * 1000, event_id=f"e{n}")
        .model_copy(update={"event_type": ("click", "cart", "purchase")[n % 3]})
        for n in range(count)
    ]  # fmt: skip


def test_a_past_goes_back_behind_the_session_and_ends_with_the_click(make_store: MakeStore) -> None:
    store, plain = make_store(past_days=7), MemorySessions(gap_ms=GAP_MS, ttl_seconds=60)
    clicks = long_past(PAST_KEPT + 60)
    for start in range(0, len(clicks), 70):
        part = clicks[start : start + 70]
        foreseen = store.preview_with_past(part)
        assert store.append_with_past(part) == foreseen
        assert [session.history for session in foreseen] == plain.append(part)
        for n, session in enumerate(foreseen, start + 1):
            assert session.past == past_of(clicks[:n])
            assert session.last_click == session.past[-1].at


def test_a_replayed_click_gets_the_past_of_its_first_append(make_store: MakeStore) -> None:
    store, clicks = make_store(past_days=7), long_past(PAST_KEPT + 80)
    places = [Place(0, n) for n in range(len(clicks))]
    first = store.append_with_past(clicks, places)
    again = slice(-MAX_UNCOMMITTED_CLICKS_PER_USER, None)
    assert store.append_with_past(clicks[again], places[again]) == first[again]
    for long_ago in (slice(3), slice(-100, -97)):
        assert store.append_with_past(clicks[long_ago], places[long_ago]) == [Session([])] * 3


def test_forgetting_includes_the_past(make_store: MakeStore) -> None:
    store = make_store(past_days=7)
    store.append_with_past([click("1"), click("2", at=2 * GAP_MS)])
    assert store.forget("u")
    (after,) = store.append_with_past([click("3")])
    assert after.past == [PastClick("3", 0, False)]


def test_who_keeps_no_past_shares_sessions_with_who_does(make_store: MakeStore) -> None:
    """As when the setting changes while workers and the HTTP service are restarted one by one."""
    keeping, other = make_store(past_days=7), make_store()
    clicks = long_past(200)
    expected = MemorySessions(gap_ms=GAP_MS, ttl_seconds=60).append(clicks)
    assert keeping.append(clicks[:120]) == expected[:120]
    assert other.preview(clicks[118:122]) == expected[118:122]
    assert other.append(clicks[120:130]) == expected[120:130]
    found = keeping.append_with_past(clicks[130:])
    assert [session.history for session in found] == expected[130:]
    # Who keeps none has left ENTRIES_KEPT of the clicks by then, without what was bought last.
    assert [c.item_id for c in found[0].past] == [c.item_id for c in clicks[130 - 32 : 131]]


def test_a_past_outlives_the_session(make_store: MakeStore) -> None:
    """Keys live for days then; who reads, reads no history that has ended."""
    now = int(time.time() * 1000)
    store = make_store(gap_ms=0, ttl_seconds=3600, past_days=7)
    store.append_with_past([click("1", at=now - 2 * 3_600_000), click("2", at=now, user="v")])
    old, new = store.read(["u", "v"])
    assert (old.history, [c.item_id for c in old.past]) == ([], ["1"])
    assert (new.history, [c.item_id for c in new.past]) == (["2"], ["2"])
    (back,) = store.append_with_past([click("3", at=now)])
    assert (back.history, [c.item_id for c in back.past]) == (["3"], ["1", "3"])


def test_redis_keeps_a_past_for_its_days(backend: Backend, key_prefix: str) -> None:
    store = redis_store(backend, key_prefix, GAP_MS, ttl_seconds=77, past_days=0.01)
    store.append(long_past(1000))
    raw = redis.Redis.from_url(backend.redis_url)
    assert 800 < raw.ttl(f"{key_prefix}u") <= 864
    assert raw.llen(f"{key_prefix}u") == 1 + ENTRIES_KEPT + PAST_KEPT  # the fence
    raw.close()
    store.close()


def test_memory_forgets_after_the_ttl() -> None:
    now = [0.0]
    store = MemorySessions(gap_ms=0, ttl_seconds=10, clock=lambda: now[0])
    store.append([click("1")])
    now[0] = 9.9
    assert store.append([click("2")]) == [["1", "2"]]
    now[0] = 19.9
    assert store.append([click("3")]) == [["3"]]


def test_redis_keys_expire_so_memory_is_bounded(backend: Backend, key_prefix: str) -> None:
    store = redis_store(backend, key_prefix, GAP_MS, ttl_seconds=77)
    store.append([click(str(i)) for i in range(100)])
    raw = redis.Redis.from_url(backend.redis_url)
    assert 70 < raw.ttl(f"{key_prefix}u") <= 77
    assert raw.llen(f"{key_prefix}u") == 1 + ENTRIES_KEPT  # the fence
    raw.close()
    store.close()


def test_the_script_comes_back_after_the_server_forgot_it(
    backend: Backend, key_prefix: str
) -> None:
    store = redis_store(backend, key_prefix, GAP_MS, 60)
    store.append([click("1")])
    raw = redis.Redis.from_url(backend.redis_url)
    raw.script_flush()
    raw.close()
    assert store.append([click("2")]) == [["1", "2"]]
    store.close()


def test_a_script_that_some_nodes_forgot_comes_back(
    redis_cluster: Cluster, key_prefix: str
) -> None:
    store = redis_store(redis_cluster, key_prefix, GAP_MS, 60)
    users = [f"u{number}" for number in range(30)]
    store.append([click("1", user=user) for user in users])
    for node in redis_cluster.nodes[:2]:
        redis_cluster.ask(node, "SCRIPT", "FLUSH")
    assert store.append([click("2", user=user) for user in users]) == [["1", "2"]] * 30
    assert [server.used_bytes > 0 for server in store.servers()] == [True] * 3
    store.ping()
    store.close()


def test_the_setting_that_does_not_fit_the_server_is_named(
    backend: Backend, redis_cluster: Cluster
) -> None:
    for url, cluster in ((backend.redis_url, True), (redis_cluster.url, False)):
        store = RedisSessions(
            url, key_prefix="x", gap_ms=0, ttl_seconds=1, timeout_seconds=5, cluster=cluster
        )
        with pytest.raises(ConfigurationError, match="NEXTCLICK_REDIS__CLUSTER"):
            store.append([click("1", user=str(number)) for number in range(30)])
        store.close()


@pytest.mark.parametrize("url", ["redis://localhost:6379/1", "unix:///tmp/redis.sock", "localhost"])
def test_a_url_that_no_cluster_has_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError, match="NEXTCLICK_REDIS__URL"):
        RedisSessions(url, key_prefix="x", gap_ms=0, ttl_seconds=1, timeout_seconds=1, cluster=True)


@pytest.mark.parametrize("cluster", [False, True])
def test_an_unreachable_redis_is_unavailable_and_says_which_setting(cluster: bool) -> None:
    store = RedisSessions(
        "redis://127.0.0.1:1/0",
        key_prefix="x",
        gap_ms=0,
        ttl_seconds=1,
        timeout_seconds=0.5,
        cluster=cluster,
    )
    with pytest.raises(Unavailable, match="NEXTCLICK_REDIS__URL"):
        store.append([click("1")])
    with pytest.raises(Unavailable, match="NEXTCLICK_REDIS__URL"):
        store.ping()


def test_a_url_that_is_none_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="NEXTCLICK_REDIS__URL"):
        RedisSessions("http://nowhere", key_prefix="x", gap_ms=0, ttl_seconds=1, timeout_seconds=1)


def foreign_values(raw: redis.Redis[bytes], key: bytes) -> dict[str, Callable[[], object]]:
    """What somebody else, or a fault, may have left at the key of a session."""
    fence, digest = struct.pack(">id", 0, 5.0), b"8 bytes!"

    def entries(*values: bytes) -> Callable[[], object]:
        return lambda: raw.rpush(key, *values)

    return {
        "string": lambda: raw.set(key, b"x"),
        "hash": lambda: raw.hset(key, "a", "b"),
        "set": lambda: raw.sadd(key, "a"),
        "sorted set": lambda: raw.zadd(key, {"a": 1}),
        "stream": lambda: raw.xadd(key, {"a": "b"}),
        "a list of something": entries(b"a", b"b", b"c"),
        "a huge list": entries(*[b"x" * 30] * 5000),
        "a fence alone": entries(fence),
        "an entry that is cut": entries(fence, digest + struct.pack(">Bd", 1, 5.0)),
        "a history too long": entries(fence, digest + struct.pack(">Bd", 200, 5.0) + b"item"),
        "no time": entries(fence, digest + struct.pack(">Bd", 1, math.nan) + b"item"),
        "endless time": entries(fence, digest + struct.pack(">Bd", 1, math.inf) + b"item"),
    }


@pytest.mark.parametrize("where", ["redis", "cluster"])
def test_a_value_that_is_not_a_session_is_replaced_alone(
    where: str, request: pytest.FixtureRequest, key_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = request.getfixturevalue("backend" if where == "redis" else "redis_cluster")
    store = redis_store(server, key_prefix, GAP_MS, 3600)
    raw: redis.Redis[bytes] = (
        redis.Redis.from_url(server.redis_url)
        if where == "redis"
        else redis.RedisCluster.from_url(server.url)
    )
    key = key_prefix.encode() + b"u"
    store.append([click("other", 1, user="v")])
    for number, (name, put) in enumerate(foreign_values(raw, key).items()):
        raw.delete(key)
        put()
        assert store.read(["u", "v"]) == [Session([]), Session(["other"], 1)], name
        clicks = [click("a", 1), click("b", 2), click("other", 1, user="w")]
        assert store.append(clicks)[:2] == [["a"], ["a", "b"]], name
        assert store.append([click("c", 3)]) == [["a", "b", "c"]], name
        assert caplog.text.count("the user's session is reset") == number + 1, name
    raw.close()
    store.close()


def test_an_item_that_is_not_utf8_is_an_unknown_item(backend: Backend, key_prefix: str) -> None:
    store = redis_store(backend, key_prefix, GAP_MS, 3600)
    with redis.Redis.from_url(backend.redis_url) as raw:
        entry = b"8 bytes!" + struct.pack(">Bd", 1, 5.0) + b"\xff\xfe"
        raw.rpush(key_prefix.encode() + b"u", struct.pack(">id", 0, 5.0), entry)
    assert store.append([click("a", 6)]) == [["\ufffd\ufffd", "a"]]
    assert store.read(["u"])[0].history == ["\ufffd\ufffd", "a"]
    store.close()


@pytest.mark.parametrize(
    ("maxmemory", "policy", "warned"),
    [
        ("0", "allkeys-lru", False),
        ("100mb", "noeviction", False),
        ("100mb", "allkeys-lru", True),
        ("100mb", "volatile-ttl", True),  # sessions expire, so they are among these keys
    ],
)
def test_a_redis_that_drops_sessions_is_told_of(
    key_prefix: str,
    caplog: pytest.LogCaptureFixture,
    own_redis: Server,
    maxmemory: str,
    policy: str,
    warned: bool,
) -> None:
    with redis.Redis(port=own_redis.port) as admin:
        admin.config_set("maxmemory", maxmemory)
        admin.config_set("maxmemory-policy", policy)
    store = open_store(f"redis://{own_redis.address}", key_prefix)
    store.warn_of_evictions()
    store.close()
    assert [policy in record.getMessage() for record in caplog.records] == [True] * warned


def test_who_may_not_ask_redis_about_itself_goes_on(
    key_prefix: str, caplog: pytest.LogCaptureFixture, own_redis: Server
) -> None:
    with redis.Redis(port=own_redis.port) as admin:
        admin.acl_setuser("u", enabled=True, passwords=["+p"], keys=["*"], commands=["+ping"])
    store = open_store(f"redis://u:p@{own_redis.address}", key_prefix)
    with caplog.at_level("INFO"):
        store.warn_of_evictions()
    with pytest.raises(ConfigurationError, match=r"(?i)info"):
        store.servers()
    store.close()
    assert "unknown" in caplog.text


def open_store(url: str, key_prefix: str) -> RedisSessions:
    return RedisSessions(url, key_prefix=key_prefix, gap_ms=1, ttl_seconds=60, timeout_seconds=5)
