from __future__ import annotations

import numpy as np
import pandas as pd

from nextclick.shared.item_features import ItemContent
from nextclick.trainer.compare.baselines.categories import CategoryPopularity
from nextclick.trainer.compare.benchmark import Benchmark
from nextclick.trainer.data import Samples, click_log

CLICKS = ["a1", "a1", "a1", "a2", "b1", "b1", "b1", "b1", "b2", "b2"]
FRAME = pd.DataFrame({"user_id": range(10), "item_id": CLICKS, "timestamp": range(10)})
CONTENTS = {
    "a1": ItemContent(("a",)),
    "a2": ItemContent(("a", "both")),
    "b1": ItemContent(("b",)),
    "cold": ItemContent(("a",)),
    "gone": ItemContent(("a",), available=False),
}
BENCHMARK = Benchmark("shop", click_log(FRAME, 0, 0, 0), contents=CONTENTS)


def ranked(*newest: str) -> list[list[str]]:
    method = CategoryPopularity(CONTENTS)
    method.fit(BENCHMARK.log, BENCHMARK.vocabulary, seed=0)
    histories = BENCHMARK.vocabulary.rows(list(newest))[:, None]
    scores = method.score(Samples(histories, histories[:, 0]))
    ids = np.array(BENCHMARK.vocabulary.item_ids)
    return [ids[order].tolist() for order in np.argsort(-scores, axis=1)]


def test_cold_items_that_are_available_are_ranked() -> None:
    assert set(BENCHMARK.vocabulary.item_ids) == {"a1", "a2", "b1", "b2", "cold"}


def test_the_items_of_the_newest_items_categories_come_first_by_popularity() -> None:
    of_a, of_b, of_both = ranked("a1", "b1", "a2")
    assert set(of_a[:3]) == set(of_both[:3]) == {"a1", "a2", "cold"}
    assert of_a.index("a1") < of_a.index("a2")
    assert of_b[0] == "b1", "the only one of which it is known"


def test_after_an_item_of_which_nothing_is_known_popularity_ranks() -> None:
    (order,) = ranked("b2")
    assert [item for item in order if item != "cold"] == ["b1", "a1", "b2", "a2"]
