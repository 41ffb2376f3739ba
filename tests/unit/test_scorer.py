from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import shared.source_bst
from shared.checkpoint import Checkpoint, build
from shared.errors import CheckpointError
from shared.scorer import Scorer, six_digits
from shared.windows import HISTORY_LENGTH
from tests.unit.builders import CPU, checkpoint
from trainer.presets import DEFAULT, SOURCE, Preset

SCORER = Scorer(checkpoint(), CPU, top_k=10)


def random_windows(count: int, items: int = 30, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    rows = rng.integers(1, items + 1, (count, HISTORY_LENGTH))
    for i, row in enumerate(rows):
        row[: i % HISTORY_LENGTH] = 0
    return torch.from_numpy(rows)


def test_padding_does_not_speak() -> None:
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


histories = st.lists(
    st.integers(1, 32).map(str), min_size=1, max_size=12
)  # 31 and 32 are unknown to the model


@settings(max_examples=60)
@given(batch=st.lists(histories, min_size=1, max_size=70), position=st.integers(0, 69))
def test_an_answer_does_not_depend_on_the_batch_it_was_scored_in(
    batch: list[list[str]], position: int
) -> None:
    """Bit for bit: what makes a replay after a crash repeat itself exactly."""
    position %= len(batch)
    (alone,) = SCORER.recommend([batch[position]])
    assert SCORER.recommend(batch)[position] == alone


@pytest.fixture
def one_thread_afterwards() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("one_thread_afterwards")
@pytest.mark.parametrize("preset", [DEFAULT, SOURCE], ids=lambda p: p.name)
def test_an_answer_does_not_depend_on_the_number_of_threads(preset: Preset) -> None:
    scorer = Scorer(fresh(preset), CPU, top_k=10)
    batch = [[str(i) for i in row if i] for row in random_windows(64).tolist()]
    torch.set_num_threads(1)
    one = scorer.recommend(batch)
    torch.set_num_threads(2)
    assert scorer.recommend(batch) == one


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
    assert known == SCORER.recommend([["3"]])[0]


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
    monkeypatch.setattr(shared.source_bst, "_BLOCK_ELEMENTS", 128 * 64 * 37)
    alone = torch.cat([scorer.log_probabilities(batch[i : i + 1]) for i in range(64)])
    for size in (2, 7, 8, 9, 33, 64):
        assert torch.equal(scorer.log_probabilities(batch[:size]), alone[:size])


@pytest.mark.parametrize("preset", [DEFAULT, SOURCE], ids=lambda p: p.name)
def test_the_promise_holds_for_every_size_of_a_preset(preset: Preset) -> None:
    scorer = Scorer(fresh(preset), CPU, top_k=10)
    batch = random_windows(70).numpy()
    alone = torch.cat([scorer.log_probabilities(batch[i : i + 1]) for i in range(70)])
    for size in range(1, 71):
        assert torch.equal(scorer.log_probabilities(batch[:size]), alone[:size])


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
    assert got.items == expected.items
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


def test_a_model_nobody_clicked_for_yet_can_serve() -> None:
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
    for exact, rounded in zip(scores.ravel(), six_digits(scores).ravel().tolist(), strict=True):
        assert rounded == pytest.approx(float(f"{exact:.6g}"), rel=1e-15)
        assert len(repr(rounded).partition("e")[0].replace(".", "").strip("0")) <= 6
    assert six_digits(np.array([0.0, 1.0, 0.25, 1e-70])).tolist() == [0.0, 1.0, 0.25, 0.0]


@pytest.mark.parametrize("cells", [1, 300, 900, 10**9])
def test_a_batch_is_ranked_alike_in_blocks_of_any_size(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    histories = [
        [str(item) for item in rng.integers(1, 31, rng.integers(1, 12))] for _ in range(45)
    ]
    expected = SCORER.recommend(histories)
    monkeypatch.setattr("shared.scorer._CELLS", cells)
    assert SCORER.recommend(histories) == expected
