from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from nextclick.shared.model import BST, BSTConfig, Calibration, Vocabulary
from nextclick.shared.model.calibration import UNCALIBRATED
from nextclick.trainer.compare.benchmark import Benchmark
from nextclick.trainer.compare.bst_method import BSTMethod
from nextclick.trainer.data import ClickLog, Split, click_log
from nextclick.trainer.evaluate import evaluate
from nextclick.trainer.fit.loop import Epoch
from nextclick.trainer.fit.pipeline import Fitted, fit_model
from nextclick.trainer.fit.presets import PRESETS, Preset, Regularisation
from tests.unit.builders import CPU, bst

TINY = replace(
    PRESETS["default"],
    shape=BSTConfig(items=1, embed_dim=16, heads=2, layers=1, feedforward=16),
    regularisation=Regularisation(0.0, 0.0, 0.0),
    batch_size=32,
    epochs=12,
    patience=12,
    steps=0,
    learning_rate=1e-2,
)


@pytest.fixture(scope="module")
def chain() -> Benchmark:
    """Every user walks round a ring of twelve items: the next click is certain."""
    n, users = 20, 30
    frame = pd.DataFrame(
        [(f"u{u}", f"i{(u + t) % 12}", t) for u in range(users) for t in range(n)],
        columns=["user_id", "item_id", "timestamp"],
    )
    return Benchmark("ring", click_log(frame, 0))


def fitted(benchmark: Benchmark, seed: int = 0, refit: bool = True) -> BSTMethod:
    method = BSTMethod(TINY, CPU, refit=refit)
    method.fit(benchmark.learnable, benchmark.vocabulary, seed)
    return method


def test_it_learns_what_follows(chain: Benchmark) -> None:
    method = fitted(chain)
    assert method.name == "BST default"
    assert evaluate(method.score, chain.popularity, chain.cases).hits(1).mean() > 0.8
    assert len(method.curve) > 1
    assert method.curve[-1].validation_loss < method.curve[0].validation_loss


def test_the_seed_decides_everything(chain: Benchmark) -> None:
    some = chain.cases.take(np.arange(20))
    first, again, other = (fitted(chain, seed, refit=False).score(some) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_validation_chooses_the_epochs_and_is_then_learnt(
    chain: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int, int, float]] = []

    def fake(log: ClickLog, vocabulary: Vocabulary, recipe: Preset, **options: Any) -> Fitted:
        train, validation = (
            (log.split == split).sum() for split in (Split.TRAIN, Split.VALIDATION)
        )
        calls.append((train, validation, options["max_epochs"], options["max_seconds"]))
        losses = [3.0, 2.0, 1.0, 1.5]
        curve = [Epoch(i, 1.0, loss, 1 / loss, 1.0) for i, loss in enumerate(losses)]
        model = bst(len(vocabulary))
        model.neighbours.weight.fill_(0.1 * len(calls))
        return Fitted(model, curve, warm=False)

    monkeypatch.setattr("nextclick.trainer.compare.bst_method.fit_model", fake)
    method = BSTMethod(TINY, CPU, max_seconds=60)
    method.fit(chain.learnable, chain.vocabulary, 0)
    train, validation = (
        (chain.learnable.split == split).sum() for split in (Split.TRAIN, Split.VALIDATION)
    )
    assert calls == [(train, validation, 0, 30.0), (train + validation, 0, 2, 30.0)]
    assert [epoch.validation_loss for epoch in method.curve] == [3.0, 2.0, 1.0, 1.5]

    calls.clear()
    BSTMethod(TINY, CPU, max_seconds=60, refit=False).fit(chain.learnable, chain.vocabulary, 0)
    assert calls == [(train, validation, 0, 60.0)]


def test_weight_of_neighbours_and_calibration_are_those_of_the_fit_with_a_validation(
    chain: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[BST] = []
    calibrations: list[Calibration] = []

    def remembered(*arguments: Any, **options: Any) -> Fitted:
        fitted = fit_model(*arguments, **options)
        assert isinstance(fitted.model, BST)
        models.append(fitted.model)
        calibrations.append(fitted.calibration)
        return fitted

    monkeypatch.setattr("nextclick.trainer.compare.bst_method.fit_model", remembered)
    method = fitted(chain)
    first, second = models
    assert calibrations[0] != UNCALIBRATED
    assert calibrations[1] == UNCALIBRATED  # nothing was left to choose it by
    assert method.calibration == calibrations[0]
    assert torch.equal(first.neighbours.weight, second.neighbours.weight)
    assert not torch.equal(first.neighbours.shares, second.neighbours.shares)
