from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.item_features import ItemContent
from nextclick.trainer.compare.baselines import BASELINES
from nextclick.trainer.compare.benchmark import Benchmark
from nextclick.trainer.compare.methods import MethodOptions, method_factories
from nextclick.trainer.data import click_log
from tests.unit.builders import CPU

LOG = click_log(
    pd.DataFrame({"user_id": ["u"] * 20, "item_id": ["a", "b"] * 10, "timestamp": 0}), 0
)
PLAIN = Benchmark("plain", LOG)
WORLD = Benchmark("world", LOG, oracle=lambda cases, vocabulary: cases.histories * 0.0)
OPTIONS = MethodOptions(["default"], CPU)


def names(*asked: str, benchmark: Benchmark = PLAIN, options: MethodOptions = OPTIONS) -> list[str]:
    return [make().name for make in method_factories(asked, benchmark, options)]


def test_all_means_every_baseline_our_model_and_the_ceiling_where_it_is_known() -> None:
    assert names("all") == [*BASELINES, "BST default"]
    assert names("all", benchmark=WORLD) == [*BASELINES, "BST default", "Ceiling"]
    with_items = replace(PLAIN, contents={"a": ItemContent(("first",))})
    found = names("all", benchmark=with_items)
    assert found == [*BASELINES, "Category popularity", "BST default"]


def test_names_are_taken_as_people_write_them_and_once() -> None:
    assert names("v-sknn", "VSKNN", "Markov mix", "bst") == ["V-SkNN", "Markov mix", "BST default"]


def test_every_preset_is_a_method() -> None:
    both = MethodOptions(["default", "source"], CPU)
    assert names("bst", options=both) == ["BST default", "BST source"]


def test_a_name_or_preset_that_nobody_knows_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigurationError, match=r"oracle.*popularity.*bst"):
        names("bst", "oracle")
    with pytest.raises(ConfigurationError, match="simulated worlds"):
        names("ceiling")
    with pytest.raises(ConfigurationError, match="default"):
        names("bst", options=MethodOptions(["best"], CPU))


def test_a_limit_of_time_reaches_the_methods_that_train() -> None:
    limited = MethodOptions(["default"], CPU, max_seconds=7.0)
    (gru,) = (make() for make in method_factories(["gru4rec"], PLAIN, limited))
    (free,) = (make() for make in method_factories(["gru4rec"], PLAIN, OPTIONS))
    assert vars(gru)["max_seconds"] == 7.0
    assert vars(free)["max_seconds"] > 7.0
