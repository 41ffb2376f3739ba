from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from nextclick.shared.windows import HISTORY_LENGTH
from nextclick.trainer.compare.baselines.neural import GRU4Rec, SASRec, SequenceModel, segments
from nextclick.trainer.compare.baselines.training import train
from nextclick.trainer.data import Split, sessions_of
from tests.unit.logs import Session, cases_of, log_of, session_lists, vocabulary_of

ITEMS = 12
Network = Callable[[int], GRU4Rec | SASRec]


def small_gru(items: int) -> GRU4Rec:
    return GRU4Rec(items, dim=24, dropout=0.1)


def small_sasrec(items: int) -> SASRec:
    return SASRec(items, dim=24, layers=1, dropout=0.1)


EVERY = pytest.mark.parametrize("network", [small_gru, small_sasrec])


def walks(count: int = 400) -> list[Session]:
    """Clicks alternate +1 and +3, so the next click takes the last two to know."""
    rng = np.random.default_rng(0)
    sessions = []
    for number in range(count):
        steps = itertools.islice(itertools.cycle([1, 3]), int(rng.integers(2, 25)))
        walk = (rng.integers(ITEMS) + np.cumsum(list(steps))) % ITEMS
        split = Split.TRAIN if number < count * 0.9 else Split.VALIDATION
        sessions.append((number, split, walk.tolist()))
    return sessions


@EVERY
@pytest.mark.parametrize("negatives", [2048, 6], ids=["whole catalogue", "sampled"])
def test_the_next_click_is_learned_from_the_clicks_before(network: Network, negatives: int) -> None:
    log = log_of(walks())
    vocabulary = vocabulary_of(log)
    method = SequenceModel("", network, epochs=60, negatives=negatives, learning_rate=2e-2)
    method.fit(log, vocabulary, 0)
    row = vocabulary.rows([f"i{i}" for i in range(ITEMS)]).tolist()
    histories = [[row[i], row[(i + step) % ITEMS]] for i in range(ITEMS) for step in (1, 3)]
    answers = [row[(i + 4) % ITEMS] for i in range(ITEMS) for _ in (1, 3)]
    best = method.score(cases_of(histories)).argmax(axis=1) + 1
    assert (best == answers).mean() > 0.75  # by chance 0.08; by the last click alone 0.5


@EVERY
def test_scores_are_those_of_the_history_without_padding(network: Network) -> None:
    log = log_of(walks(40))
    method = SequenceModel("", network, epochs=1)
    method.fit(log, vocabulary_of(log), 0)
    histories = [[3], [1, 2, 3], list(range(1, 11))]
    scores = method.score(cases_of(histories))
    for history, row in zip(histories, scores, strict=True):
        with torch.inference_mode():
            last = method._model(torch.tensor([history]))[0, -1]
            alone = method._model.embedding.weight[1:] @ last
        np.testing.assert_allclose(row, alone.numpy(), atol=1e-5)


@EVERY
def test_no_state_depends_on_later_clicks(network: Network) -> None:
    torch.manual_seed(0)
    model = network(ITEMS).eval()
    one, other = model(torch.tensor([[1, 2, 3, 4], [1, 2, 5, 0]]))
    torch.testing.assert_close(one[:2], other[:2])
    assert not torch.allclose(one[2], other[2])


@settings(max_examples=50)
@given(session_lists(longest=40))
def test_every_click_but_a_sessions_first_is_a_target_once(sessions: list[Session]) -> None:
    log = log_of(sessions)
    found = sessions_of(log, vocabulary_of(log))
    pairs = sorted(
        (int(found.rows[i - 1]), int(found.rows[i]))
        for i in range(len(found.rows))
        if found.starts[i] != i
    )
    lists = [found.rows[a:b].tolist() for a, b in itertools.pairwise(found.bounds)]
    for rng in (None, np.random.default_rng(0)):
        table = segments(found, rng)
        assert table.shape[1] == HISTORY_LENGTH + 1
        cut = [[row for row in segment if row] for segment in table.tolist()]
        assert sorted(pair for segment in cut for pair in itertools.pairwise(segment)) == pairs
        for segment, padded in zip(cut, table.tolist(), strict=True):
            assert padded[: len(segment)] == segment  # right-padded
            assert any(
                segment == rows[i : i + len(segment)] for rows in lists for i in range(len(rows))
            )


def test_long_sessions_are_cut_at_other_places_each_epoch() -> None:
    log = log_of([(0, Split.TRAIN, list(range(30)))])
    rng = np.random.default_rng(0)
    found = sessions_of(log, vocabulary_of(log))
    cuts = {tuple(segments(found, rng)[1].tolist()) for _ in range(30)}
    assert len(cuts) > 5


@EVERY
def test_a_fit_ends_in_time(network: Network) -> None:
    log = log_of(walks())
    began = time.monotonic()
    method = SequenceModel("", network, epochs=10**6, max_seconds=0.2)
    method.fit(log, vocabulary_of(log), 0)
    assert time.monotonic() - began < 20
    assert np.isfinite(method.score(cases_of([[1, 2]]))).all()


def test_a_fit_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    log = log_of(walks(40))
    SequenceModel("", small_gru, epochs=1).fit(log, vocabulary_of(log), 0)
    torch.testing.assert_close(torch.rand(2), expected)


def trained(losses_after: list[float], patience: int) -> tuple[list[float], float]:
    """Weight after each epoch, and the weight that training leaves, for given validation losses."""
    model = nn.Linear(1, 1, bias=False)
    after: list[float] = []

    def losses() -> Iterator[Tensor]:
        yield model.weight.sum()

    def validation_loss() -> float:
        after.append(model.weight.item())
        return losses_after[len(after) - 1]

    train(
        model,
        losses,
        1,
        validation_loss,
        learning_rate=0.1,
        epochs=len(losses_after),
        patience=patience,
    )
    return after, model.weight.item()


def test_training_leaves_the_best_epoch_and_stops_without_progress() -> None:
    after, left = trained([3.0, 1.0, 2.0, 2.0, 0.5], patience=2)
    assert len(after) == 4
    assert left == after[1]


def test_training_goes_on_while_there_is_progress() -> None:
    after, left = trained([3.0, 1.0, 2.0, 0.5], patience=2)
    assert left == after[3]
