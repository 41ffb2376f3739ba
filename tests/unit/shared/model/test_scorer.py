from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nextclick.shared.model.source_bst
from nextclick.bench.agreement import lists_agree
from nextclick.shared.errors import CheckpointError
from nextclick.shared.model import BST, Checkpoint, Scorer
from nextclick.shared.model.checkpoint import build
from nextclick.shared.model.rounding import round_to_six_digits
from nextclick.shared.windows import HISTORY_LENGTH
from nextclick.trainer.fit.presets import DEFAULT, SOURCE, Preset
from tests.unit.builders import CPU, checkpoint

SCORER = Scorer(checkpoint(), CPU, top_k=10)


def random_windows(count: int, items: int = 30, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    rows = rng.integers(1, items + 1, (count, HISTORY_LENGTH))
    for i, row in enumerate(rows):
        row[: i % HISTORY_LENGTH] = 0
    return torch.from_numpy(rows)


def test_padding_does_not_change_scores() -> None:
    torch.manual_seed(1)
    model = checkpoint().model
    histories = random_windows(10)
    with torch.inference_mode():
        before = model(histories)
        for name, weights in model.named_parameters():
            if name.endswith("item_embedding.weight"):
                weights[0] = 100.0
        assert torch.allclose(model(histories), before, atol=1e-5)


def test_order_matters() -> None:
    one, other = SCORER.recommend([["1", "2", "3"], ["3", "2", "1"]])
    assert one.items != other.items


def fresh(preset: Preset, items: int = 30) -> Checkpoint:
    torch.manual_seed(1)
    return replace(checkpoint(items), model=build(preset.config(items, clicks=0)).eval())


SHORTLISTED = 2_000
"""Items of the models of the promise; half of them make a shortlist."""
MOST_AT_ONCE = 300


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


class Promise:
    """A scorer, histories, and what it recommends for them all at once, on one thread."""

    def __init__(self, preset: Preset, shortlist_from: int) -> None:
        ours = fresh(preset, SHORTLISTED)
        self.scorer = Scorer(ours, CPU, top_k=10, shortlist_from=shortlist_from)
        windows = random_windows(MOST_AT_ONCE, items=SHORTLISTED).tolist()
        self.histories = [[str(row) for row in window if row] for window in windows]
        whole = self.scorer.recommend(self.histories)
        best = frozenset(item.item_id for ranking in whole for item in ranking.items[:3])
        self.expected = {
            frozenset[str](): whole,
            best: self.scorer.recommend(self.histories, withheld=best),
        }
        """Which items are withheld → what is recommended."""

    def check(self, first: int, size: int, withheld: frozenset[str] = frozenset()) -> None:
        part = slice(first, first + size)
        for got, expected in zip(
            self.scorer.recommend(self.histories[part], withheld=withheld),
            self.expected[withheld][part],
            strict=True,
        ):
            assert not withheld & {item.item_id for item in got.items}
            assert got.fallback == expected.fallback
            assert lists_agree(got.items, expected.items), (got.items, expected.items)


@pytest.fixture(
    scope="module",
    params=[(DEFAULT, SHORTLISTED + 1), (DEFAULT, 1), (SOURCE, SHORTLISTED + 1)],
    ids=["default", "default, shortlisted", "source"],
)
def promise(request: pytest.FixtureRequest) -> Promise:
    return Promise(*request.param)


def test_the_promise_holds_for_batches_of_every_size(promise: Promise, threads: int) -> None:
    """What lets anyone recompute a recommendation, and a replay repeat itself."""

    @settings(max_examples=6)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        size = data.draw(st.integers(1, MOST_AT_ONCE))
        withheld = data.draw(st.sampled_from([*promise.expected]))
        promise.check(data.draw(st.integers(0, MOST_AT_ONCE - size)), size, withheld)

    check()
    for first in range(8):
        for withheld in promise.expected:
            promise.check(first, 1, withheld)


def test_the_promise_holds_for_a_model_that_is_sure_of_itself() -> None:
    """Training sharpens: the larger the logits, the more of their last bits matter."""
    sure = fresh(DEFAULT, 50)
    assert isinstance(sure.model, BST)
    with torch.no_grad():
        for head in (sure.model.network.ahead, sure.model.network.about):
            head.log_scale.fill_(3.4)
    scorer = Scorer(sure, CPU, top_k=10)
    histories = [[str(row) for row in window if row] for window in random_windows(300, 50).tolist()]
    for history, together in zip(histories, scorer.recommend(histories), strict=True):
        (alone,) = scorer.recommend([history])
        assert lists_agree(alone.items, together.items), (alone, together)


def test_answers_are_the_best_items_in_order() -> None:
    (answer,) = SCORER.recommend([["4", "5"]])
    scores = SCORER.log_probabilities(np.array([[0] * 8 + [4, 5]])).exp()[0]
    assert scores.sum().item() == pytest.approx(1.0, abs=1e-5)
    order = scores.argsort(descending=True)[:10]
    assert [item.item_id for item in answer.items] == [str(int(i) + 1) for i in order]
    assert [item.score for item in answer.items] == pytest.approx(scores[order].tolist(), rel=1e-5)
    assert answer.fallback is None


def test_without_anything_known_popularity_answers_and_says_so() -> None:
    cold, unknown, known = SCORER.recommend([[], ["?", "??"], ["?", "3"]])
    assert cold.fallback == "cold_start"
    assert unknown.fallback == "unknown_items"
    assert [item.item_id for item in cold.items] == [str(i) for i in range(1, 11)]
    assert cold.items == unknown.items
    assert lists_agree(known.items, SCORER.recommend([["3"]])[0].items)


def test_no_histories_no_answers() -> None:
    assert SCORER.recommend([]) == []


def test_a_catalogue_smaller_than_k_is_ranked_whole() -> None:
    (answer,) = Scorer(checkpoint(items=3), CPU, top_k=10).recommend([["1"]])
    assert sorted(item.item_id for item in answer.items) == ["1", "2", "3"]


def test_a_model_without_finite_scores_never_serves() -> None:
    broken = checkpoint()
    with torch.no_grad():
        broken.model.get_parameter("network.norm.bias").fill_(float("nan"))
    with pytest.raises(CheckpointError, match="finite"):
        Scorer(broken, CPU, top_k=10)


def test_the_promise_holds_for_a_catalogue_that_is_scored_in_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """How a catalogue is cut depends on the batch; the answers do not."""
    scorer = Scorer(fresh(SOURCE, 300), CPU, top_k=10)
    batch = random_windows(64, items=300).numpy()
    monkeypatch.setattr(nextclick.shared.model.source_bst, "_BLOCK_ELEMENTS", 128 * 64 * 37)
    alone = torch.cat([scorer.log_probabilities(batch[i : i + 1]) for i in range(64)])
    for size in (2, 7, 8, 9, 33, 64):
        assert torch.allclose(scorer.log_probabilities(batch[:size]), alone[:size], atol=1e-5)


@given(
    length=st.integers(0, 25),
    unknown=st.lists(st.integers(0, 24), max_size=10),
    seed=st.integers(0, 100),
)
def test_a_history_is_read_as_its_last_ten_clicks_without_the_unknown(
    length: int, unknown: list[int], seed: int
) -> None:
    history = [str(i) for i in np.random.default_rng(seed).integers(1, 31, length)]
    for position in unknown:
        history[position : position + 1] = ["?"] * (position < length)
    known = [item for item in history[-HISTORY_LENGTH:] if item != "?"]
    (got,) = SCORER.recommend([history])
    (expected,) = SCORER.recommend([known])
    assert lists_agree(got.items, expected.items)
    assert (got.fallback is None) == bool(known)


def test_scores_carry_six_digits_and_fall() -> None:
    for answer in SCORER.recommend([["1"], ["2", "3"], []]):
        scores = [item.score for item in answer.items]
        assert scores == sorted(scores, reverse=True)
        assert scores == [float(f"{score:.6g}") for score in scores]
        assert len({item.item_id for item in answer.items}) == 10


def test_popular_items_come_with_their_share_and_ties_in_the_catalogues_order() -> None:
    ours = replace(checkpoint(items=4), popularity=np.array([2, 5, 2, 1]))
    (answer,) = Scorer(ours, CPU, top_k=3).recommend([[]])
    assert [(item.item_id, item.score) for item in answer.items] == [
        ("2", 0.5),
        ("1", 0.2),
        ("3", 0.2),
    ]


def test_a_model_without_clicks_can_serve() -> None:
    ours = replace(checkpoint(items=4), popularity=np.zeros(4, np.int64))
    (answer,) = Scorer(ours, CPU, top_k=3).recommend([[]])
    assert [item.score for item in answer.items] == [0.0, 0.0, 0.0]


def test_a_model_left_in_training_serves_without_dropout() -> None:
    ours = checkpoint()
    ours.model.train()
    assert Scorer(ours, CPU, top_k=10).recommend([["4", "5"]]) == SCORER.recommend([["4", "5"]])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("where", ["network.norm.weight", "network.about.log_scale"])
def test_weights_that_overflow_never_serve(where: str, value: float) -> None:
    broken = checkpoint()
    with torch.no_grad():
        broken.model.get_parameter(where).fill_(value)
    with pytest.raises(CheckpointError, match="finite"):
        Scorer(broken, CPU, top_k=10)


def test_scores_keep_six_digits() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((200, 5)) ** rng.integers(1, 8, (200, 1))
    for exact, rounded in zip(
        scores.ravel(), round_to_six_digits(scores).ravel().tolist(), strict=True
    ):
        assert rounded == pytest.approx(float(f"{exact:.6g}"), rel=1e-15)
        assert len(repr(rounded).partition("e")[0].replace(".", "").strip("0")) <= 6
    assert round_to_six_digits(np.array([0.0, 1.0, 0.25, 1e-70])).tolist() == [0.0, 1.0, 0.25, 0.0]


@pytest.mark.parametrize("cells", [1, 300, 900, 10**9])
def test_a_batch_is_ranked_alike_in_blocks_of_any_size(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    histories = [
        [str(item) for item in rng.integers(1, 31, rng.integers(1, 12))] for _ in range(45)
    ]
    expected = SCORER.recommend(histories)
    monkeypatch.setattr("nextclick.shared.model.scorer._SCORES_PER_BLOCK", cells)
    for got, whole in zip(SCORER.recommend(histories), expected, strict=True):
        assert lists_agree(got.items, whole.items)
