"""From a log and a preset to a fitted model, cold or from a champion."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from nextclick.shared.model import BST, Checkpoint, SessionModel, SourceBST, Vocabulary
from nextclick.shared.model.checkpoint import build
from nextclick.trainer.data import (
    ClickLog,
    Samples,
    Sessions,
    Split,
    random_split,
    samples,
    sessions_of,
    source_samples,
)
from nextclick.trainer.fit import cooccurrence
from nextclick.trainer.fit.distributed import ALONE, ProcessGroup
from nextclick.trainer.fit.loop import Epoch, fit
from nextclick.trainer.fit.mixing import mix
from nextclick.trainer.fit.objectives import EveryClick, Objective, OwnCandidates
from nextclick.trainer.fit.presets import Preset

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """A model and how it came about."""

    model: SessionModel
    curve: list[Epoch]
    warm: bool
    """Whether it started from the champion's weights."""


def fit_model(
    data: ClickLog,
    vocabulary: Vocabulary,
    preset: Preset,
    *,
    seed: int,
    device: torch.device,
    champion: Checkpoint | None = None,
    max_epochs: int = 0,
    max_seconds: float = float("inf"),
    stopped: Callable[[], bool] = lambda: False,
    ranks: ProcessGroup = ALONE,
) -> Fitted:
    """Fit on Split.TRAIN; Split.VALIDATION, if any, chooses the epoch and how the parts mix.

    With a `champion` of the preset's shape, the model starts from its weights; its vocabulary is
    then the beginning of `vocabulary`. See `fit` for the rest. Of several ranks only rank 0 gets
    the parts mixed: it is the one that uses the model.
    """
    torch.manual_seed(seed)
    train = sessions_of(data, vocabulary, (Split.TRAIN,))
    model = build(preset.config(len(vocabulary), len(train.rows)))
    warm = champion is not None and _warm_start(model, champion)
    if isinstance(model, BST):
        table = cooccurrence.count_pairs(train, len(vocabulary))
        known = len(champion.vocabulary) if champion is not None and warm else 0
        cooccurrence.initialise_item_vectors(model, table, known)
        clicks = np.bincount(train.rows - 1, minlength=len(vocabulary))
        cooccurrence.set_neighbours(model.neighbours, table, clicks)
    objective, validation = _training_data(model, train, data, vocabulary, preset, seed)
    curve = fit(
        model,
        objective,
        validation,
        preset,
        seed=seed,
        device=device,
        warm=warm,
        max_epochs=max_epochs,
        max_seconds=max_seconds,
        stopped=stopped,
        ranks=ranks,
    )
    if isinstance(model, BST) and ranks.rank == 0:
        mix(model, validation, device)
    return Fitted(model, curve, warm)


def _training_data(
    model: SessionModel,
    train: Sessions,
    data: ClickLog,
    vocabulary: Vocabulary,
    preset: Preset,
    seed: int,
) -> tuple[Objective, Samples]:
    """What the model is fitted on, and the validation cases."""
    validation = samples(data, Split.VALIDATION, vocabulary)
    if isinstance(model, BST):
        smoothing = preset.regularised(len(vocabulary), len(train.rows)).label_smoothing
        return EveryClick(model, train, preset.batch_size, preset.stride, smoothing), validation
    assert isinstance(model, SourceBST)
    if preset.sampling == "source":
        rng = np.random.default_rng(seed)
        table, validation = random_split(source_samples(data, vocabulary, rng), rng)
        assert validation.labels is not None
        validation = validation.take(np.flatnonzero(validation.labels == 1))
    else:
        table = samples(data, Split.TRAIN, vocabulary)
    return (
        OwnCandidates(model, table, preset.batch_size, preset.loss, preset.negatives),
        validation,
    )


def _warm_start(model: SessionModel, champion: Checkpoint) -> bool:
    """Copy the champion's weights, item by item; False if its shape is another."""
    if _shape(champion.model) != _shape(model):
        log.warning("the champion has another shape than the preset: starting from nothing")
        return False
    weights = model.state_dict()
    for name, value in champion.model.state_dict().items():
        if value.shape == weights[name].shape:
            weights[name] = value
        else:  # one row per item, and the vocabulary only ever grows at its end
            weights[name][: len(value)] = value
    model.load_state_dict(weights)
    return True


def _shape(model: SessionModel) -> dict[str, object]:
    """What must be equal for weights to fit; dropout may change with the log."""
    return model.config.model_dump(exclude={"items", "dropout", "embed_dropout"})
