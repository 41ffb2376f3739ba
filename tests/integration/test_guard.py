"""A model that is worse live is taken back by a real worker."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nextclick.shared.errors import CheckpointError
from nextclick.shared.model import Scorer
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from nextclick.shared.schemas import Click
from nextclick.shared.windows import HISTORY_LENGTH
from tests.conftest import Launch
from tests.integration.traffic import ITEMS, Answers, Shop, check, publish_model
from tests.waiting import until

USERS = 40
QUICK = {f"{PREFIX}WORKER__GUARD_CLICKS": "400", f"{PREFIX}WORKER__MAX_BATCH": "32"}


def obedient_clicks(registry: Registry, version: str, rounds: int) -> list[Click]:
    """Users who always click one of the ten items that this model recommends them."""
    scorer = Scorer(registry.load(version), torch.device("cpu"), top_k=10)
    rng = np.random.default_rng(0)
    histories = [[str(rng.integers(1, ITEMS + 1))] for _ in range(USERS)]
    clicks = []
    for turn in range(rounds):
        for user, history in enumerate(histories):
            clicks.append(
                Click(
                    event_id=f"event-{turn}-{user}",
                    user_id=f"user-{user}",
                    item_id=history[-1],
                    timestamp=1_700_000_000_000 + 1000 * turn,
                )
            )
        for history, ranking in zip(histories, scorer.recommend(histories), strict=True):
            history.append(ranking.items[rng.integers(10)].item_id)
            del history[:-HISTORY_LENGTH]
    return clicks


def test_a_worse_model_is_rolled_back_and_nobody_notices_more(
    kafka: KafkaSettings,
    answers: Answers,
    launch: Launch,
    logs: Callable[[str], str],
    tmp_path: Path,
) -> None:
    registry = Registry(str(tmp_path / "registry"))
    good = publish_model(tmp_path / "registry", seed=1)
    clicks = obedient_clicks(registry, good, rounds=50)
    shop = Shop(kafka)
    worker = launch("worker", **QUICK)
    shop.send(clicks[:600])
    answers.wait_for({c.event_id for c in clicks[:600]})

    with pytest.raises(CheckpointError, match="finite"):
        publish_model(tmp_path / "registry", seed=2, weight=torch.nan)
    broken = registry.versions()[-1]
    pointer = tmp_path / "registry" / "current.json"
    named = pointer.read_text()
    pointer.write_text(named.replace(good, broken))
    until(lambda: f"model {broken} cannot serve, keeping {good}" in logs("worker"), "the refusal")
    pointer.write_text(named)

    bad = publish_model(tmp_path / "registry", seed=3)
    until(lambda: f"serving model {bad}" in logs("worker"), "the swap")
    for start in range(600, 1400, USERS):  # so that users take turns, as far as partitions do
        shop.send(clicks[start : start + USERS])
    answers.wait_for({c.event_id for c in clicks[:1400]})
    assert f"rolled back from model {bad} to {good}, worse: HR@10 " in logs("worker")
    until(lambda: registry.pointer().version == good, "the pointer follows")  # type: ignore[union-attr]

    shop.send(clicks[1400:])
    got = answers.wait_for({c.event_id for c in clicks})
    assert Counter(a.event_id for a in got) == Counter(c.event_id for c in clicks)
    check(clicks, got, tmp_path / "registry")
    in_order = sorted(got, key=lambda a: a.scored_at)
    runs = [version for version, _ in itertools.groupby(a.model_version for a in in_order)]
    assert runs == [good, bad, good]
    assert sum(a.model_version == bad for a in got) < 600  # 200 judged, by 20 users: then it ends

    # Somebody wants it nonetheless.
    registry.promote(bad)
    until(lambda: logs("worker").count(f"serving model {bad}") == 2, "it is tried once more")
    worker.terminate()
    assert worker.wait(30) == 0
