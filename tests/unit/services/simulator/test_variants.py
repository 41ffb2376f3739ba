from __future__ import annotations

import numpy as np

from nextclick.services.evaluate.worlds import variants
from nextclick.services.simulator.variants import LAUNCH, NEW, VARIANTS, VariantsWorld
from nextclick.shared.windows import PADDING
from nextclick.trainer.data import Split

COUNT = 20_000
WORLD = VariantsWorld(seed=3)
CLICKS = WORLD.clicks(COUNT, seed=1)
ROWS = np.array([WORLD.item_ids.index(item) for item in CLICKS.items])


def test_the_same_seed_gives_the_same_clicks() -> None:
    again = VariantsWorld(seed=3).clicks(COUNT, seed=1)
    assert (again.items == CLICKS.items).all()
    assert (VariantsWorld(seed=4).clicks(COUNT, seed=1).items != CLICKS.items).any()


def test_the_products_are_those_of_the_missions_world() -> None:
    products = WORLD.missions.clicks(COUNT, seed=1).items
    names = np.array(WORLD.missions.item_ids, object)[ROWS // len(VARIANTS)]
    assert (names == products).all()


def test_nobody_clicks_an_item_before_its_launch() -> None:
    launch = WORLD.launch.ravel()
    assert abs((launch > 0).mean() - NEW) < 0.05
    assert (np.arange(COUNT) / COUNT >= launch[ROWS]).all()
    late = np.arange(COUNT) / COUNT > LAUNCH[1]
    assert abs((launch[ROWS[late]] > 0).mean() - NEW) < 0.05, "afterwards they are items as others"


def test_shoppers_have_a_taste_that_attributes_say() -> None:
    brands = np.array([WORLD.contents[item].title.split()[0] for item in CLICKS.items])
    shares = []
    for user in range(50):
        _, counts = np.unique(brands[CLICKS.users == user], return_counts=True)
        shares.append(np.sort(counts)[-2:].sum() / counts.sum())
    assert np.mean(shares) > 0.5, "two favourites of twelve"
    assert len(WORLD.contents) == len(set(WORLD.item_ids)) == 1200
    tags = {content.tags for content in WORLD.contents.values()}
    assert tags == {("budget",), ("standard",), ("premium",)}


def test_items_of_the_benchmark_are_cold_when_the_test_begins() -> None:
    benchmark = variants(seed=3, clicks=COUNT)
    log = benchmark.log
    assert len(benchmark.vocabulary) == 1200
    assert (benchmark.cases.targets != PADDING).all()
    assert log.order is not None
    assert log.order[log.split == Split.TEST].min() == 0.9 * COUNT
    assert log.order[log.split == Split.TRAIN].max() == 0.8 * COUNT - 1
    cold = benchmark.popularity[benchmark.cases.targets - 1] == 0
    assert 0.02 < cold.mean() < 0.2
