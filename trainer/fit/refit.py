"""Teaches a judged model the clicks that were held out to judge it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from nextclick.shared.item_features import NO_CONTENTS, Contents
from nextclick.shared.model import BST, Checkpoint
from nextclick.trainer.data import ClickLog, Split
from nextclick.trainer.fit.pipeline import fit_model
from nextclick.trainer.fit.presets import Preset

MAX_EPOCHS = 2


def refit(
    judged: Checkpoint,
    log: ClickLog,
    preset: Preset,
    *,
    seed: int,
    device: torch.device,
    max_seconds: float = float("inf"),
    stopped: Callable[[], bool] = lambda: False,
    contents: Contents = NO_CONTENTS,
) -> Checkpoint:
    """Fit a model, which learned the training part of a log, on all of its clicks.

    A few epochs at the learning rate of a fit from scratch, at most half as many as the model had.
    Neighbours and popularity are counted from all clicks, and items that only the held-out clicks
    have get rows at the end. No click is left to choose anything by: number of epochs, mixing
    weights and calibration stay those of the judged model. contents: that the judged model was
    fitted with. The other arguments are those of `fit`.
    """
    everything = replace(log, split=np.full(len(log.items), Split.TRAIN))
    vocabulary = judged.vocabulary.extended(everything.ids_in(Split.TRAIN))
    epochs = min(MAX_EPOCHS, judged.training["epochs"] // 2)
    model = fit_model(
        everything,
        vocabulary,
        replace(preset, warm_learning_rate=preset.learning_rate),
        seed=seed,
        device=device,
        champion=judged,
        max_epochs=max(1, epochs),
        max_seconds=max_seconds,
        stopped=stopped,
        contents=contents,
    ).model
    if isinstance(model, BST) and isinstance(judged.model, BST):
        model.about_share.copy_(judged.model.about_share)
        model.neighbours.weight.copy_(judged.model.neighbours.weight)
    popularity = everything.users_per_item(vocabulary)
    training = dict(judged.training)
    if "cold_items" in training:
        training["cold_items"] = int((popularity == 0).sum())
    return replace(
        judged,
        model=model,
        vocabulary=vocabulary,
        popularity=popularity,
        metrics=dict(judged.metrics),
        training=training,
    )
