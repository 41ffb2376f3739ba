"""Our model as a method in a comparison."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from nextclick.shared.item_features import NO_CONTENTS, Contents
from nextclick.shared.model import BST, Checkpoint, Vocabulary
from nextclick.shared.model.calibration import UNCALIBRATED
from nextclick.trainer.compare.method import Scores
from nextclick.trainer.data import ClickLog, Samples, Split
from nextclick.trainer.evaluate import model_score
from nextclick.trainer.fit.loop import Epoch, best_epoch
from nextclick.trainer.fit.pipeline import Fitted, fit_model
from nextclick.trainer.fit.presets import Preset


class BSTMethod:
    """A preset, fitted as by the trainer, and scored by the same scorer as in serving.

    The validation selects the number of epochs, the mixing weights and the calibration. With
    `refit`, the model is then refitted with that number of epochs on training and validation
    clicks, because the newest clicks are the most valuable; it keeps the weights and the
    calibration, which it has no clicks left to choose by.
    """

    def __init__(
        self,
        preset: Preset,
        device: torch.device,
        *,
        max_seconds: float = float("inf"),
        refit: bool = True,
        contents: Contents = NO_CONTENTS,
    ) -> None:
        """max_seconds: longest time of the fit, including the refit. contents: of items, by id."""
        self.name = f"BST {preset.name}"
        self.curve: list[Epoch] = []
        """The training curve of the first fit."""
        self.calibration = UNCALIBRATED
        """From log P to the probabilities that lists would show."""
        self._preset = preset
        self._device = device
        self._contents = contents
        self._refit = refit and preset.sampling != "source"  # whose split is not by time
        self._max_seconds = max_seconds / 2 if self._refit else max_seconds

    def fit(self, log: ClickLog, vocabulary: Vocabulary, seed: int) -> None:
        """Fit with early stopping, then refit on all clicks outside the test split."""
        fitted = self._fit(log, vocabulary, seed)
        self.curve, self.calibration = fitted.curve, fitted.calibration
        model = fitted.model
        if self._refit and (log.split == Split.VALIDATION).any():
            best = max(1, best_epoch(self.curve).epoch)
            everything = replace(
                log, split=np.where(log.split == Split.VALIDATION, Split.TRAIN, log.split)
            )
            refitted = self._fit(everything, vocabulary, seed, epochs=best).model
            if isinstance(model, BST) and isinstance(refitted, BST):
                refitted.about_share.copy_(model.about_share)
                refitted.neighbours.weight.copy_(model.neighbours.weight)
            model = refitted
        counts, name = log.counts(vocabulary), self._preset.name
        checkpoint = Checkpoint(model, vocabulary, counts, name, None, {}, {}, self.calibration)
        self._score = model_score(checkpoint, self._device)

    def score(self, cases: Samples) -> Scores:
        """Log-probabilities of the catalogue before calibration: shape [B, items]."""
        return np.asarray(self._score(cases), np.float32)

    def _fit(self, log: ClickLog, vocabulary: Vocabulary, seed: int, epochs: int = 0) -> Fitted:
        return fit_model(
            log,
            vocabulary,
            self._preset,
            seed=seed,
            device=self._device,
            max_epochs=epochs,
            max_seconds=self._max_seconds,
            contents=self._contents,
        )
