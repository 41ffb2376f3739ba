from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from nextclick.shared.model import BST, BSTConfig, SessionModel, SourceBST, SourceBSTConfig
from nextclick.shared.model.checkpoint import build
from nextclick.trainer.data import Samples
from nextclick.trainer.fit.loop import Epoch, best_epoch, fit
from nextclick.trainer.fit.objectives import CandidateObjective, Objective, SequenceObjective
from nextclick.trainer.fit.presets import DEFAULT, SOURCE, Preset, Regularisation, preset
from tests.unit.builders import CPU
from tests.unit.shared.model.test_neighbours import sessions_of

ITEMS = 20
TINY = replace(
    DEFAULT,
    shape=BSTConfig(items=ITEMS, embed_dim=32, heads=2, layers=1, feedforward=32),
    regularisation=Regularisation(0.0, 0.0, 0.0),
    batch_size=64,
    learning_rate=3e-3,
    steps=0,
    patience=6,
    epochs=6,
)
TINY_SOURCE = replace(
    SOURCE,
    shape=SourceBSTConfig(
        items=ITEMS, embed_dim=32, heads=2, layers=1, feedforward=32, tower=32, dropout=0.0
    ),
    batch_size=64,
    learning_rate=3e-3,
    patience=6,
    epochs=6,
    negatives=2,
)


def pattern(count: int, seed: int) -> Samples:
    """After item i comes item i + 1: everything is in the last click."""
    rng = np.random.default_rng(seed)
    histories = np.zeros((count, 10), np.int64)
    histories[:, -1] = rng.integers(1, ITEMS + 1, count)
    return Samples(histories, histories[:, -1] % ITEMS + 1)


def objective_of(model: SessionModel, train: Samples, recipe: Preset) -> Objective:
    if isinstance(model, BST):
        pairs = np.stack([train.histories[:, -1], train.targets], axis=1)
        return SequenceObjective(
            model, sessions_of(pairs.tolist()), recipe.batch_size, recipe.stride
        )
    assert isinstance(model, SourceBST)
    return CandidateObjective(model, train, recipe.batch_size, recipe.negatives)


def fresh(recipe: Preset) -> SessionModel:
    torch.manual_seed(7)
    return build(recipe.config(ITEMS, clicks=0))


def fitted(
    recipe: Preset, train: Samples, model: SessionModel | None = None, **options: object
) -> tuple[SessionModel, list[Epoch]]:
    model = fresh(recipe) if model is None else model
    options = {"seed": 1, "device": CPU, **options}
    objective = objective_of(model, train, recipe)
    return model, fit(model, objective, pattern(200, seed=9), recipe, **options)  # type: ignore[arg-type]


def distance(one: SessionModel, other: SessionModel) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def right(model: SessionModel) -> float:
    cases = pattern(300, seed=5)
    with torch.inference_mode():
        best = model(torch.from_numpy(cases.histories)).argmax(dim=1).numpy() + 1
    return float((best == cases.targets).mean())


@pytest.mark.parametrize(
    ("recipe", "at_least"),  # by chance it would be 0.05
    [
        (TINY, 0.9),
        (TINY_SOURCE, 0.9),
    ],
    ids=["all items compete", "source"],
)
def test_the_pattern_is_learned(recipe: Preset, at_least: float) -> None:
    model, curve = fitted(recipe, pattern(3000, seed=1))
    assert right(model) > at_least
    assert curve[-1].train_loss < curve[1].train_loss
    assert not model.training


def test_a_table_with_its_own_labels_is_learned() -> None:
    positive = pattern(3000, seed=1)
    rng = np.random.default_rng(2)
    table = Samples(
        np.concatenate([positive.histories, positive.histories]),
        np.concatenate([positive.targets, rng.integers(1, ITEMS + 1, 3000)]),
        np.repeat([1.0, 0.0], 3000),
    )
    model, _ = fitted(TINY_SOURCE, table)
    assert right(model) > 0.9


def test_the_same_seed_gives_the_same_weights() -> None:
    recipe = replace(DEFAULT, epochs=2, batch_size=64, steps=0)  # with dropout
    one, _ = fitted(recipe, pattern(1500, seed=1))
    two, _ = fitted(recipe, pattern(1500, seed=1))
    other, _ = fitted(recipe, pattern(1500, seed=1), seed=2)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
    assert distance(one, other) > 0


def test_the_best_epoch_wins_not_the_last() -> None:
    """A fit that only makes things worse leaves the model as it came."""
    start, _ = fitted(TINY, pattern(3000, seed=1))
    before = {name: value.clone() for name, value in start.state_dict().items()}
    noise = pattern(500, seed=3)
    noise = Samples(noise.histories, np.random.default_rng(0).permutation(noise.targets))
    _, curve = fitted(replace(TINY, patience=2), noise, model=start)
    assert len(curve) - 1 <= 6
    assert best_epoch(curve) is curve[0]
    for name, value in start.state_dict().items():
        assert torch.equal(value, before[name])


def test_stop_and_time_limit_end_the_fit_after_one_step() -> None:
    for options in ({"stopped": lambda: True}, {"max_seconds": 0.0}):
        _, curve = fitted(TINY, pattern(4000, seed=1), **options)
        assert [epoch.epoch for epoch in curve] == [0, 1]


def test_max_epochs_caps_the_preset() -> None:
    _, curve = fitted(TINY, pattern(200, seed=1), max_epochs=2)
    assert [epoch.epoch for epoch in curve] == [0, 1, 2]


def test_a_small_log_gets_more_epochs() -> None:
    _, curve = fitted(replace(TINY, epochs=1, steps=10), pattern(200, seed=1))
    assert [epoch.epoch for epoch in curve] == [0, 1, 2, 3]  # of three steps each


def test_epochs_that_do_not_fit_into_the_time_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step takes one second here: 20 s are room for two epochs of ten, at most."""
    clock = itertools.count()
    monkeypatch.setattr("nextclick.trainer.fit.loop.time.monotonic", lambda: float(next(clock)))
    recipe = replace(TINY, epochs=50)
    _, curve = fitted(recipe, pattern(640, seed=1), max_seconds=25.0)
    assert [epoch.epoch for epoch in curve] == [0, 1, 2]


def test_presets_are_found_by_name() -> None:
    assert preset("source").shape.feedforward == 2048
    assert preset("default") is DEFAULT


def test_the_curve_says_how_well_the_kept_model_does() -> None:
    validation = pattern(1500, seed=9)  # more than one batch
    model = fresh(TINY)
    objective = objective_of(model, pattern(1500, seed=1), TINY)
    recipe = replace(TINY, epochs=3)
    curve = fit(model, objective, validation, recipe, seed=1, device=CPU)
    best = best_epoch(curve)
    with torch.inference_mode():
        logits = model(torch.from_numpy(validation.histories))
    targets = torch.from_numpy(validation.targets - 1)
    loss = torch.nn.functional.cross_entropy(logits, targets).item()
    assert loss == pytest.approx(best.validation_loss, rel=1e-4)
    own = logits.gather(1, targets.unsqueeze(1))
    ndcg = (1 / torch.log2(1 + (logits >= own).sum(dim=1))).double().mean().item()
    assert ndcg == pytest.approx(best.validation_ndcg, rel=1e-5)
    assert ndcg > 0.5
    assert [epoch.seconds for epoch in curve] == sorted(epoch.seconds for epoch in curve)


def test_without_validation_the_last_epoch_is_kept() -> None:
    model, nothing = fresh(TINY), pattern(0, seed=0)
    objective = objective_of(model, pattern(500, seed=1), TINY)
    recipe = replace(TINY, epochs=3, patience=1)
    curve = fit(model, objective, nothing, recipe, seed=1, device=CPU)
    assert [epoch.epoch for epoch in curve] == [0, 1, 2, 3]
    assert distance(model, fresh(TINY)) > 0


def test_patience_ends_a_fit_that_gets_no_better() -> None:
    """Targets at random: the first epochs learn the frequencies, the others noise."""
    recipe = replace(TINY, epochs=50, patience=2, learning_rate=2e-2)
    noise = pattern(400, seed=3)
    noise = Samples(noise.histories, np.random.default_rng(0).permutation(noise.targets))
    _, curve = fitted(recipe, noise)
    by_loss = min(curve, key=lambda epoch: epoch.validation_loss).epoch
    assert curve[-1].epoch == max(best_epoch(curve).epoch, by_loss) + 2 < 50


def test_a_warm_fit_takes_its_own_smaller_steps() -> None:
    recipe = replace(TINY, warm_learning_rate=1e-9)
    cold, warm = (
        fitted(recipe, pattern(300, seed=1), warm=w, max_epochs=1)[0] for w in (False, True)
    )
    assert distance(cold, fresh(TINY)) > 1e-3
    assert distance(warm, fresh(TINY)) < 1e-6


def test_dropout_works_while_fitting_and_never_while_judging() -> None:
    noisy = replace(TINY, regularisation=Regularisation(0.5, 0.0, 0.0))
    with_dropout, _ = fitted(noisy, pattern(300, seed=1), max_epochs=1)
    without, _ = fitted(TINY, pattern(300, seed=1), max_epochs=1)
    assert distance(with_dropout, without) > 0
    window = torch.from_numpy(pattern(1, seed=2).histories)
    with torch.inference_mode():
        assert torch.equal(with_dropout(window), with_dropout(window))


def test_regularisation_follows_the_clicks_per_item() -> None:
    few, many = DEFAULT.config(100, clicks=1000), DEFAULT.config(100, clicks=20_000)
    assert isinstance(few, BSTConfig)
    assert isinstance(many, BSTConfig)
    assert few.dropout > many.dropout
    assert few.embed_dropout > many.embed_dropout
    assert DEFAULT.regularisation_for(100, 1000).label_smoothing > 0
    assert DEFAULT.regularisation_for(100, 20_000).label_smoothing == 0
    assert TINY.config(100, clicks=0).dropout == 0


def test_the_best_epoch_ranks_best_and_is_the_last_without_validation() -> None:
    nan = float("nan")
    curve = [Epoch(i, 1.0, loss, ndcg, 1.0) for i, (loss, ndcg) in enumerate([(2, 0.3), (1, 0.4)])]
    later = Epoch(2, 1.0, 1.5, 0.5, 1.0)
    assert best_epoch([*curve, later]) is later
    assert best_epoch([*curve, replace(later, validation_ndcg=0.2)]) is curve[1]
    blind = [replace(epoch, validation_loss=nan, validation_ndcg=nan) for epoch in curve]
    assert best_epoch(blind) is blind[-1]
