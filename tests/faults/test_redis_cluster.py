"""A Redis Cluster whose slots move, whose nodes die, hang, come back and are replaced."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nextclick.shared.errors import Unavailable
from nextclick.shared.messages import Place
from nextclick.shared.redis import MemorySessions, RedisSessions
from nextclick.shared.runtime.settings import PREFIX
from nextclick.shared.schemas import Click
from tests.faults.conftest import MakeStand, Report
from tests.faults.stand import Stopwatch
from tests.integration.traffic import make_clicks
from tests.redis_cluster import DURABLE, Cluster, slot_of
from tests.waiting import until

TIMEOUT = 2.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for all that leaves it whole."""
    made = Cluster(tmp_path_factory.mktemp("broken"), 3, *DURABLE)
    yield made
    made.close()


@pytest.fixture
def store(cluster: Cluster, name: str) -> Iterator[RedisSessions]:
    made = store_on(cluster, f"{name}:")
    yield made
    made.close()


def store_on(cluster: Cluster, prefix: str) -> RedisSessions:
    return RedisSessions(
        cluster.url,
        key_prefix=prefix,
        gap_ms=0,
        ttl_seconds=600,
        timeout_seconds=TIMEOUT,
        cluster=True,
    )


class Shoppers:
    """Clicks of some users one after the other, and the histories that they must get."""

    def __init__(self, users: list[str]) -> None:
        self._users = users
        self._truth = MemorySessions(gap_ms=0, ttl_seconds=600)
        self._next = 0

    def clicks(self, each: int = 1) -> tuple[list[Click], list[Place], list[list[str]]]:
        first, self._next = self._next, self._next + each * len(self._users)
        made = [
            Click(
                event_id=str(n),
                user_id=self._users[n % len(self._users)],
                item_id=f"i{n}",
                timestamp=n,
            )
            for n in range(first, self._next)
        ]
        places = [Place(0, click.timestamp) for click in made]
        return made, places, self._truth.append(made, places)


def users_in(slot: int, count: int = 4) -> list[str]:
    """Users whose keys are in one slot: what is between braces decides."""
    tag = next(t for t in map(str, range(10**6)) if slot_of(t) == slot)
    return [f"{{{tag}}}{number}" for number in range(count)]


def test_a_slot_moves_step_by_step(cluster: Cluster, store: RedisSessions) -> None:
    """To a node that is new: it has no slots, and has never seen the script."""
    slot = 77
    old = Shoppers(users_in(slot))
    clicks, places, right = old.clicks(3)
    assert store.append(clicks, places) == right
    to = cluster.add_node()
    cluster.meet(to)
    held = cluster.client(to).dbsize

    cluster.open_slot(slot, to)
    new = Shoppers([f"{user}new" for user in users_in(slot)])
    for shoppers in (old, new, new, old):  # new keys are asked for at the new node
        clicks, places, right = shoppers.clicks(2)
        assert store.append(clicks, places) == right
    assert held() == 4

    cluster.move_keys(slot, to)
    clicks, places, right = old.clicks(2)
    assert store.append(clicks, places) == right

    cluster.close_slot(slot, to)
    for shoppers in (old, new):
        clicks, places, right = shoppers.clicks(2)
        assert store.append(clicks, places) == right
    assert held() == 8


def test_slots_move_while_clicks_come(cluster: Cluster, store: RedisSessions, name: str) -> None:
    users = [f"user-{number}" for number in range(20)]
    shoppers = Shoppers(users)
    slots = sorted({slot_of(f"{name}:{user}") for user in users})
    moved = threading.Event()

    def move_all() -> None:
        for number, slot in enumerate(slots):
            owner = cluster.nodes.index(cluster.owner(slot))
            cluster.move_slot(slot, cluster.nodes[(owner + 1 + number % 2) % 3])
        moved.set()

    mover = threading.Thread(target=move_all)
    mover.start()
    batches = 0
    while not moved.is_set() or batches < 10:
        clicks, places, right = shoppers.clicks(3)
        assert store.append(clicks, places) == right
        batches += 1
    mover.join()


def again_until_it_works(
    store: RedisSessions, clicks: list[Click], places: list[Place]
) -> list[list[str]]:
    got: list[list[list[str]]] = []

    def one_more_try() -> bool:
        try:
            got.append(store.append(clicks, places))
        except Unavailable:
            return False
        return True

    until(one_more_try, "it works again", 30)
    return got[0]


def test_a_node_dies_and_comes_back(cluster: Cluster, store: RedisSessions) -> None:
    """The others have appended their part of the batch; it is sent again as a whole."""
    shoppers = Shoppers([f"user-{number}" for number in range(60)])
    for _ in range(3):
        clicks, places, right = shoppers.clicks(2)
        assert store.append(clicks, places) == right
    victim = cluster.nodes[0]  # the one of the URL, too
    victim.kill()
    clicks, places, right = shoppers.clicks(3)
    with pytest.raises(Unavailable, match="NEXTCLICK_REDIS__URL"):
        store.append(clicks, places)
    with pytest.raises(Unavailable, match="NEXTCLICK_REDIS__URL"):
        store.ping()
    victim.restart()
    assert again_until_it_works(store, clicks, places) == right
    store.ping()


@pytest.mark.long
def test_a_node_that_has_left_is_not_believed(tmp_path: Path) -> None:
    """It still answers, and says that it knows of no slots."""
    cluster = Cluster(tmp_path, 3, *DURABLE)
    store = store_on(cluster, "s:")
    try:
        _a_node_has_left(cluster, store)
    finally:
        store.close()
        cluster.close()


def _a_node_has_left(cluster: Cluster, store: RedisSessions) -> None:
    fourth = cluster.add_node()
    cluster.meet(fourth)
    slot = slot_of("s:user-0")
    cluster.move_slot(slot, fourth)
    shoppers = Shoppers([f"user-{number}" for number in range(40)])
    clicks, places, right = shoppers.clicks(2)
    assert store.append(clicks, places) == right
    cluster.move_slot(slot, cluster.nodes[1])
    gone = cluster.ask(fourth, "CLUSTER", "MYID")
    for node in cluster.nodes[:3]:
        cluster.ask(node, "CLUSTER", "FORGET", gone)
    cluster.ask(fourth, "CLUSTER", "RESET", "HARD")
    assert cluster._slots(fourth) == []
    for _ in range(3):
        clicks, places, right = shoppers.clicks(2)
        assert again_until_it_works(store, clicks, places) == right


@pytest.mark.long
def test_a_node_that_hangs_costs_one_time_out(cluster: Cluster, store: RedisSessions) -> None:
    shoppers = Shoppers([f"user-{number}" for number in range(60)])
    clicks, places, right = shoppers.clicks()
    assert store.append(clicks, places) == right
    cluster.nodes[2].process.send_signal(signal.SIGSTOP)
    clicks, places, right = shoppers.clicks()
    watch = Stopwatch()
    with pytest.raises(Unavailable, match="NEXTCLICK_REDIS__URL"):
        store.append(clicks, places)
    assert watch.seconds() < 2.5 * TIMEOUT
    cluster.nodes[2].process.send_signal(signal.SIGCONT)
    assert again_until_it_works(store, clicks, places) == right


@pytest.mark.long
def test_a_replica_takes_over(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 3, *DURABLE)
    try:
        _a_replica_takes_over(cluster, store_on(cluster, "s:"))
    finally:
        cluster.close()


def _a_replica_takes_over(cluster: Cluster, store: RedisSessions) -> None:
    victim = cluster.nodes[0]
    cluster.meet(cluster.add_node(), replica_of=victim)
    shoppers = Shoppers([f"user-{number}" for number in range(60)])
    clicks, places, right = shoppers.clicks(4)
    assert store.append(clicks, places) == right
    with cluster.client(victim) as client:
        assert client.wait(1, 5000) == 1  # the replica has it all
    victim.kill()
    clicks, places, right = shoppers.clicks(2)
    assert again_until_it_works(store, clicks, places) == right
    store.close()


@pytest.mark.long
def test_a_worker_goes_on_when_a_node_dies(
    cluster: Cluster, stand: MakeStand, report: Report
) -> None:
    ours = stand()
    ours.environ[f"{PREFIX}REDIS__URL"] = cluster.url
    ours.environ[f"{PREFIX}REDIS__CLUSTER"] = "true"
    ours.send(make_clicks(3000, seed=1))
    worker = ours.worker()
    ours.wait_for_some(300)
    cluster.nodes[1].kill()
    until(lambda: "waiting: Redis" in ours.log(worker), "the worker says what it waits for")
    assert ours.committed() < 3000
    watch = Stopwatch()
    cluster.nodes[1].restart()
    ours.wait_for_all()
    report(
        "node of a Redis Cluster killed and restarted, at_least_once",
        ours.verdict(),
        watch.seconds(),
    )


@pytest.mark.long
def test_slots_move_at_random_for_long(cluster: Cluster, store: RedisSessions, name: str) -> None:
    rng = np.random.default_rng(0)
    users = [f"user-{number}" for number in range(300)]
    shoppers = Shoppers(users)
    stop = threading.Event()

    def move() -> None:
        while not stop.is_set():
            slot = slot_of(f"{name}:{rng.choice(users)}")
            others = [node for node in cluster.nodes if node is not cluster.owner(slot)]
            cluster.move_slot(slot, others[rng.integers(2)])

    mover = threading.Thread(target=move)
    mover.start()
    for _ in range(300):
        clicks, places, right = shoppers.clicks(2)
        assert store.append(clicks, places) == right
    stop.set()
    mover.join()
