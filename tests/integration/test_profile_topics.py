"""Several recommendations topics from one worker, with real servers."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nextclick.services.items.publish import publish
from nextclick.shared.items import ItemTable
from nextclick.shared.kafka import TopicReader, ensure_topics, read_offsets, retained_offsets
from nextclick.shared.profiles import Profile, profile_id
from nextclick.shared.redis import session_store
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings, Settings
from nextclick.shared.schemas import DrawnItems, ExtendedRecommendation, Item
from tests.conftest import Launch
from tests.integration.traffic import ITEMS, Shop, make_clicks, publish_model
from tests.waiting import until

PROFILES: dict[str, dict[str, Any]] = {
    "cheap": {"max_price": 9.0},
    "spread": {"max_per_category": 2},
    "news": {"exploration": {"slots": 3, "temperature": 5.0}},
}


@pytest.mark.long
@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
def test_a_worker_that_is_killed_answers_on_all_topics(
    guarantee: str, kafka: KafkaSettings, name: str, launch: Launch, tmp_path: Path
) -> None:
    topics = {f"recommendations.{profile}-{name}": profile for profile in PROFILES}
    ours = {
        f"{PREFIX}PROFILES": json.dumps(PROFILES),
        f"{PREFIX}KAFKA__PROFILE_TOPICS": json.dumps(topics),
        f"{PREFIX}WORKER__GUARANTEE": guarantee,
    }
    publish_model(tmp_path / "registry", seed=1)
    assert launch("topics", "create", **ours).wait(60) == 0
    said = {
        str(i): Item(item_id=str(i), price=i, categories=[f"of {i // 9}"])
        for i in range(1, ITEMS + 1)
    }
    publish(kafka, dict(said))
    table = ItemTable(keep_attributes=True)
    table.apply(read_offsets(kafka, kafka.items_topic, retained_offsets(kafka, kafka.items_topic)))

    clicks = make_clicks(2000)
    wanted = {click.event_id for click in clicks}
    drawn: dict[str, tuple[list[str], DrawnItems | None]] = {}
    found: dict[str, list[str]] = {topic: [] for topic in [kafka.recommendations_topic, *topics]}
    shop = Shop(kafka)
    ensure_topics(kafka, [*found])
    with closing(TopicReader(kafka, [*found])) as reader:

        def read(at_least: int) -> bool:
            for message in reader.poll(timeout=0.2):
                value = json.loads(message.value or b"")
                found[message.topic].append(value["event_id"])
                profile = topics.get(message.topic)
                assert ("profile" in value) == (profile is not None)
                if profile is not None:
                    answer = ExtendedRecommendation.model_validate(value)
                    content = Profile.model_validate(PROFILES[profile])
                    assert answer.profile == profile_id(profile, content)
                    holds(profile, answer, table)
                    if profile == "news":
                        # A click that a crash has answered twice has the same items.
                        items = [item.item_id for item in answer.items]
                        now = items, answer.exploration
                        assert drawn.setdefault(answer.event_id, now) == now
            return all(len({*ids}) >= at_least for ids in found.values())

        worker = launch("worker", **ours)
        shop.send(clicks[:1000])
        until(lambda: read(200), "some answers on each topic", 60)
        worker.kill()
        worker.wait()
        launch("worker", **ours)
        shop.send(clicks[1000:])
        until(lambda: read(len(wanted)), "all answers on each topic", 90)
        for ids in found.values():
            assert {*ids} == wanted
            if guarantee == "exactly_once":
                assert len(ids) == len(wanted)


def holds(profile: str, answer: ExtendedRecommendation, table: ItemTable) -> None:
    if answer.items_offset != table.states.offset:  # before the worker has read the topic
        return
    listed = [table.states.attributes.get(item.item_id) for item in answer.items]
    if profile == "cheap":
        assert all(item.price is not None and item.price <= 9 for item in listed)
        assert (len(listed), answer.shortened_by) == (9, {"price": ITEMS - 9})
    elif profile == "news":
        assert answer.exploration is not None
        assert answer.exploration.propensities[:7] == [1] * 7
        assert len(answer.items) == 10
    else:
        names = [category for item in listed for category in item.categories]
        assert max(map(names.count, names)) <= 2
        assert len(listed) == 10


def test_lists_leave_out_what_users_clicked_in_the_last_days(
    kafka: KafkaSettings, name: str, environ: dict[str, str], launch: Launch, tmp_path: Path
) -> None:
    """Also after a crash, which repeats clicks, and after the sessions were lost and rebuilt."""
    topic = f"recommendations.fresh-{name}"
    ours = {
        f"{PREFIX}PROFILES": json.dumps({"fresh": {"exclude_seen_days": 1}}),
        f"{PREFIX}KAFKA__PROFILE_TOPICS": json.dumps({topic: "fresh"}),
    }
    publish_model(tmp_path / "registry", seed=1)
    assert launch("topics", "create", **ours).wait(60) == 0
    clicks = make_clicks(900, users=30)
    number = {click.event_id: i for i, click in enumerate(clicks)}
    found: dict[str, ExtendedRecommendation] = {}
    with closing(TopicReader(kafka, [topic])) as reader:

        def answered(at_least: int) -> bool:
            for message in reader.poll(timeout=0.2):
                answer = ExtendedRecommendation.model_validate_json(message.value or b"")
                first = found.setdefault(answer.event_id, answer)
                assert (first.items, first.kept_out) == (answer.items, answer.kept_out)
            return len(found) >= at_least

        shop = Shop(kafka)
        worker = launch("worker", **ours)
        shop.send(clicks[:500])
        until(lambda: answered(200), "some answers", 60)
        worker.kill()
        worker.wait()
        launch("worker", **ours)
        shop.send(clicks[500:800])
        until(lambda: answered(800), "all answers", 60)
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in (environ | ours).items():
                patch.setenv(variable, value)
            store = session_store(Settings.from_environment())
            users = sorted({click.user_id for click in clicks})
            before = store.read(users)
            for user in users:
                assert store.forget(user)
            assert launch("sessions", "rebuild", **ours).wait(60) == 0
            assert store.read(users) == before
            store.close()
        shop.send(clicks[800:])
        until(lambda: answered(len(clicks)), "all answers after the rebuild", 60)
    beyond = 0
    for answer in found.values():
        assert answer.kept_out is not None
        seen = {
            c.item_id
            for c in clicks[: number[answer.event_id] + 1]
            if c.user_id == answer.user_id and c.item_id != "unheard-of"
        }
        assert {*answer.kept_out.seen} == seen
        assert not seen & {item.item_id for item in answer.items}
        assert len(answer.items) == min(10, ITEMS - len(seen))
        beyond += not seen <= {*answer.history}
    assert beyond > 300, "most users have clicked more than a history holds"
