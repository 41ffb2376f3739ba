from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from shared.bst import BST
from tests.unit.builders import CPU
from trainer.dataset import Samples
from trainer.fit import Epoch, fit
from trainer.presets import DEFAULT, Preset, preset

ITEMS = 20
TINY = replace(
    DEFAULT, embed_dim=32, heads=2, layers=1, feedforward=32, tower=32, dropout=0.0, batch_size=64
)


def pattern(count: int, seed: int) -> Samples:
    """After item i comes item i + 1: everything is in the last click."""
    rng = np.random.default_rng(seed)
    histories = rng.integers(1, ITEMS + 1, (count, 10))
    return Samples(histories, histories[:, -1] % ITEMS + 1)


def fitted(recipe: Preset, train: Samples, **options: object) -> tuple[BST, list[Epoch]]:
    torch.manual_seed(7)
    model = BST(recipe.config(ITEMS))
    options = {"seed": 1, "device": CPU, "progress": False, **options}
    return model, fit(model, train, pattern(200, seed=9), recipe, **options)  # type: ignore[arg-type]


def right(model: BST) -> float:
    cases = pattern(300, seed=5)
    with torch.inference_mode():
        best = model(torch.from_numpy(cases.histories)).argmax(dim=1).numpy() + 1
    return float((best == cases.targets).mean())


@pytest.mark.parametrize(
    ("recipe", "at_least"),  # by chance it would be 0.05
    [
        (TINY, 0.9),
        (replace(TINY, negatives=5), 0.9),
        (replace(TINY, loss="bce", negatives=2), 0.9),
    ],
    ids=["all items compete", "sampled cross-entropy", "bce"],
)
def test_the_pattern_is_learned(recipe: Preset, at_least: float) -> None:
    model, curve = fitted(replace(recipe, epochs=6, patience=6), pattern(3000, seed=1))
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
    model, _ = fitted(replace(TINY, epochs=6, patience=6), table)
    assert right(model) > 0.9


def test_the_same_seed_gives_the_same_weights() -> None:
    recipe = replace(DEFAULT, epochs=2, batch_size=64)  # with dropout
    one, _ = fitted(recipe, pattern(1500, seed=1))
    two, _ = fitted(recipe, pattern(1500, seed=1))
    other, _ = fitted(recipe, pattern(1500, seed=1), seed=2)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
    assert not torch.equal(one.tower_in.weight, other.tower_in.weight)


def test_the_best_epoch_wins_not_the_last() -> None:
    """A fit that only makes things worse leaves the model as it came."""
    start, _ = fitted(replace(TINY, epochs=6, patience=6), pattern(3000, seed=1))
    before = {name: value.clone() for name, value in start.state_dict().items()}
    noise = pattern(500, seed=3)
    noise = Samples(noise.histories, np.random.default_rng(0).permutation(noise.targets))
    curve = fit(
        start, noise, pattern(200, seed=9), replace(TINY, epochs=6, patience=2),
        seed=1, device=CPU, progress=False,
    )  # fmt: skip
    assert len(curve) - 1 <= 6
    assert curve[0].validation_loss == min(epoch.validation_loss for epoch in curve)
    for name, value in start.state_dict().items():
        assert torch.equal(value, before[name])


def test_stop_and_time_limit_end_the_fit_after_one_step() -> None:
    for options in ({"stopped": lambda: True}, {"max_seconds": 0.0}):
        _, curve = fitted(TINY, pattern(4000, seed=1), **options)
        assert [epoch.epoch for epoch in curve] == [0, 1]


def test_max_epochs_caps_the_preset() -> None:
    _, curve = fitted(TINY, pattern(200, seed=1), max_epochs=2)
    assert [epoch.epoch for epoch in curve] == [0, 1, 2]


def test_presets_are_found_by_name() -> None:
    assert preset("source").feedforward == 2048
    assert preset("source").loss == "bce"
    assert preset("default") is DEFAULT


def test_the_curve_says_how_well_the_kept_model_does() -> None:
    validation = pattern(1500, seed=9)  # more than one batch
    model = BST(TINY.config(ITEMS))
    torch.manual_seed(7)
    recipe = replace(TINY, epochs=3)
    curve = fit(
        model, pattern(1500, seed=1), validation, recipe, seed=1, device=CPU, progress=False
    )
    best = min(curve, key=lambda epoch: epoch.validation_loss)
    with torch.inference_mode():
        logits = model(torch.from_numpy(validation.histories))
    targets = torch.from_numpy(validation.targets - 1)
    loss = torch.nn.functional.cross_entropy(logits, targets).item()
    assert loss == pytest.approx(best.validation_loss, rel=1e-4)
    own = logits.gather(1, targets.unsqueeze(1))
    hits = ((logits >= own).sum(dim=1) <= 10).double().mean().item()
    assert hits == pytest.approx(best.validation_hr10)
    assert hits > 0.5
    assert [epoch.seconds for epoch in curve] == sorted(epoch.seconds for epoch in curve)


def test_without_validation_the_last_epoch_is_kept() -> None:
    torch.manual_seed(7)
    model = BST(TINY.config(ITEMS))
    before = model.tower_in.weight.clone()
    nothing = pattern(0, seed=0)
    recipe = replace(TINY, epochs=3, patience=1)
    curve = fit(model, pattern(500, seed=1), nothing, recipe, seed=1, device=CPU, progress=False)
    assert [epoch.epoch for epoch in curve] == [0, 1, 2, 3]
    assert not torch.equal(model.tower_in.weight, before)


def test_patience_ends_a_fit_that_gets_no_better() -> None:
    """Targets at random: the first epochs learn the frequencies, the others noise."""
    recipe = replace(TINY, epochs=50, patience=2, learning_rate=2e-2)
    noise = pattern(400, seed=3)
    noise = Samples(noise.histories, np.random.default_rng(0).permutation(noise.targets))
    _, curve = fitted(recipe, noise)
    losses = [epoch.validation_loss for epoch in curve]
    assert len(curve) - 1 == losses.index(min(losses)) + 2 < 50


def test_a_warm_fit_takes_its_own_smaller_steps() -> None:
    cold, warm = (
        fitted(replace(TINY, warm_learning_rate=1e-9), pattern(300, seed=1), warm=w, max_epochs=1)[
            0
        ]
        for w in (False, True)
    )
    torch.manual_seed(7)
    start = BST(TINY.config(ITEMS))
    moved = [(m.tower_in.weight - start.tower_in.weight).abs().max() for m in (cold, warm)]
    assert moved[0] > 1e-3
    assert moved[1] < 1e-6


def test_dropout_works_while_fitting_and_never_while_judging() -> None:
    with_dropout, _ = fitted(replace(TINY, dropout=0.5), pattern(300, seed=1), max_epochs=1)
    without, _ = fitted(TINY, pattern(300, seed=1), max_epochs=1)
    assert not torch.equal(with_dropout.tower_in.weight, without.tower_in.weight)
    window = torch.from_numpy(pattern(1, seed=2).histories)
    with torch.inference_mode():
        assert torch.equal(with_dropout(window), with_dropout(window))
