"""Fits a model on a log with a preset, from scratch or from a champion."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nextclick.shared.item_features import NO_CONTENTS, Contents, ItemContent
from nextclick.shared.model import (
    BST,
    BSTConfig,
    Calibration,
    Checkpoint,
    SessionModel,
    SourceBST,
    Vocabulary,
)
from nextclick.shared.model.calibration import UNCALIBRATED
from nextclick.shared.model.checkpoint import ModelConfig, build
from nextclick.shared.model.content import BUCKETS
from nextclick.shared.windows import IntArray
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
from nextclick.trainer.fit.calibrating import calibrate
from nextclick.trainer.fit.distributed import SINGLE_PROCESS, ProcessGroup
from nextclick.trainer.fit.joint_embedding import (
    FloatArray,
    click_evidence,
    fold,
    join,
    price_bounds,
    since_first_click,
)
from nextclick.trainer.fit.loop import Epoch, fit
from nextclick.trainer.fit.mixing import mix
from nextclick.trainer.fit.objectives import CandidateObjective, Objective, SequenceObjective
from nextclick.trainer.fit.presets import Preset

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """A fitted model and its training curve."""

    model: SessionModel
    curve: list[Epoch]
    warm: bool
    """Whether it started from the champion's weights."""
    calibration: Calibration = UNCALIBRATED


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
    ranks: ProcessGroup = SINGLE_PROCESS,
    contents: Contents = NO_CONTENTS,
) -> Fitted:
    """Fit on Split.TRAIN; Split.VALIDATION, if any, selects epoch, mixing weights and calibration.

    champion: if it has the preset's shape, the model starts from its weights; `vocabulary` must
    begin with those items of the champion's that it keeps, in their order. The other arguments are
    those of `fit`. Of several ranks, only rank 0 sets the mixing weights and calibrates,
    because only it uses the model. contents: by item id; a BST learns item vectors from them, too.
    """
    torch.manual_seed(seed)
    train = sessions_of(data, vocabulary, (Split.TRAIN,))
    config = preset.config(len(vocabulary), len(train.rows))
    known = [contents.get(item_id) for item_id in vocabulary.item_ids]
    if isinstance(config, BSTConfig) and any(known):
        config = config.model_copy(update={"content_buckets": BUCKETS})
    model = build(config)
    kept = champion.vocabulary.only(vocabulary.item_ids) if champion else Vocabulary([])
    warm = champion is not None and _warm_start(model, champion, kept, _tensors_per_item(config))
    available = None
    if isinstance(model, BST):
        table = cooccurrence.count_pairs(train, len(vocabulary))
        cooccurrence.initialise_item_vectors(model, table, len(kept) if warm else 0)
        clicks = np.bincount(train.rows - 1, minlength=len(vocabulary))
        cooccurrence.set_neighbours(model.neighbours, table, clicks)
        if model.content is not None:
            since = since_first_click(train, len(vocabulary))
            available = _join_content(model, known, clicks, since, champion if warm else None, kept)
    objective, validation = _training_data(model, train, data, vocabulary, preset, seed, available)
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
    if isinstance(model, BST):
        fold(model)
    if isinstance(model, BST) and ranks.rank == 0:
        mix(model, validation, device)
    calibration = calibrate(model, validation, device) if ranks.rank == 0 else UNCALIBRATED
    return Fitted(model, curve, warm, calibration)


def _training_data(
    model: SessionModel,
    train: Sessions,
    data: ClickLog,
    vocabulary: Vocabulary,
    preset: Preset,
    seed: int,
    available: FloatArray | None,
) -> tuple[Objective, Samples]:
    """The objective with the training data, and the validation cases."""
    validation = samples(data, Split.VALIDATION, vocabulary)
    if isinstance(model, BST):
        smoothing = preset.regularisation_for(len(vocabulary), len(train.rows)).label_smoothing
        return SequenceObjective(
            model, train, preset.batch_size, preset.stride, smoothing, available
        ), validation
    assert isinstance(model, SourceBST)
    if preset.sampling == "source":
        rng = np.random.default_rng(seed)
        table, validation = random_split(source_samples(data, vocabulary, rng), rng)
        assert validation.labels is not None
        validation = validation.take(np.flatnonzero(validation.labels == 1))
    else:
        table = samples(data, Split.TRAIN, vocabulary)
    return (
        CandidateObjective(model, table, preset.batch_size, preset.negatives),
        validation,
    )


def _join_content(
    model: BST,
    known: Sequence[ItemContent | None],
    clicks: IntArray,
    since_first: FloatArray,
    champion: Checkpoint | None,
    kept: Vocabulary,
) -> FloatArray:
    """Let a fit learn what is known of the items, too.

    clicks, since_first: see `click_evidence`. champion: the model starts from its weights, and its
    first items are `kept`. Cold are items of which something is known, and that nobody clicked, now
    or before: they have no vector but that of their content. Returns the share of the log in which
    each item could be clicked, as far as is known: shape [items].
    """
    encoder = model.content
    assert encoder is not None
    clicked, fresh = clicks > 0, True
    if champion is not None:
        rows = champion.vocabulary.rows(kept.item_ids)
        clicked[: len(rows)] |= champion.popularity[rows - 1] > 0
        before = champion.model.config
        fresh = not isinstance(before, BSTConfig) or before.content_buckets != encoder.buckets
    if fresh:
        prices = [c.price for c in known if c is not None and c.price is not None]
        encoder.price_bounds.copy_(price_bounds(prices))
    features = encoder.features([None, *known])  # row 0 is padding
    has_content = (features.counts[1:] > 0).numpy()
    cold = ~clicked & has_content
    proof = click_evidence(clicks, since_first)
    join(model, features, proof, cold, len(kept) if champion else 0, fresh=fresh)
    return np.where(has_content & (cold | (clicks > 0)), since_first, 1.0)


def _warm_start(
    model: SessionModel, champion: Checkpoint, kept: Vocabulary, per_item: set[str]
) -> bool:
    """Copy the champion's weights; returns False, and copies nothing, if its shape differs.

    kept: the first items of the model, which are the champion's, too. per_item: the tensors that
    have a row per item, after one for padding.
    """
    if _shape(champion.model) != _shape(model):
        log.warning("the champion has another shape than the preset: starting from scratch")
        return False
    weights = model.state_dict()
    rows = torch.from_numpy(champion.vocabulary.rows(kept.item_ids))
    for name, value in champion.model.state_dict().items():
        if name in per_item:
            weights[name][0] = value[0]  # padding
            weights[name][1 : len(rows) + 1] = value[rows]
        elif name in weights and value.shape == weights[name].shape:  # not so: content, or none
            weights[name] = value
    model.load_state_dict(weights)
    return True


def _tensors_per_item(config: ModelConfig) -> set[str]:
    """The names of the tensors whose shape depends on the number of items."""
    with torch.device("meta"):  # shapes only
        one = build(config).state_dict()
        larger = build(config.model_copy(update={"items": config.items + 1})).state_dict()
    return {name for name, value in one.items() if value.shape != larger[name].shape}


def _shape(model: SessionModel) -> dict[str, object]:
    """The hyperparameters that must be equal to copy weights; dropout depends on the log.

    A content encoder can come and go: item vectors hold what it has said.
    """
    return model.config.model_dump(exclude={"items", "dropout", "embed_dropout", "content_buckets"})
