"""Training objectives: each turns its training data into one loss per step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from nextclick.shared.model import BST, SourceBST
from nextclick.trainer.data import Samples, Sessions, sample_negatives
from nextclick.trainer.data.segments import batches, cut_segments, resample_by_recency
from nextclick.trainer.fit.distributed import SINGLE_PROCESS, ProcessGroup
from nextclick.trainer.fit.loss import CatalogueCrossEntropy
from nextclick.trainer.fit.negative_samples import draw_negative_samples


class Objective(Protocol):
    """Training data with a loss."""

    steps_per_epoch: int

    def epoch(
        self, rng: np.random.Generator, device: torch.device, ranks: ProcessGroup = SINGLE_PROCESS
    ) -> Iterator[Tensor]:
        """Yield the loss of each step; the caller updates the model in between.

        With several ranks, each yields the loss of its part, and their mean is the loss of the
        step. All ranks must use equal random generators.
        """
        ...


ABOUT_LOSS = 0.2
"""Weight of the *about* reading in the loss; *ahead* has the rest. They share item vectors and
encoder. A larger weight did not help for rare items, and made *ahead* worse for others."""


class SequenceObjective:
    """−log P(click | the clicks before it) for every click of every session; trains a BST.

    The mean is weighted by how much each click counts.

    Each of the two readings has its own loss, so that both become predictors that can be mixed.
    """

    def __init__(
        self,
        model: BST,
        sessions: Sessions,
        batch: int,
        stride: int,
        label_smoothing: float = 0.0,
        available: npt.NDArray[np.floating[Any]] | None = None,
    ) -> None:
        """batch: predicted clicks per step. stride: see `segments`. available: see
        `draw_negative_samples`."""
        self._model = model
        self._sessions = sessions
        self._batch = batch
        self._stride = stride
        self._loss = CatalogueCrossEntropy(label_smoothing)
        self._available = available
        self.steps_per_epoch = max(1, round(sessions.targets / batch))

    def epoch(
        self, rng: np.random.Generator, device: torch.device, ranks: ProcessGroup = SINGLE_PROCESS
    ) -> Iterator[Tensor]:
        """See Objective."""
        segments = resample_by_recency(cut_segments(self._sessions, self._stride, rng), rng)
        for batch in batches(segments, self._batch, rng):
            length = int(segments.lengths[batch].max())
            rows = torch.from_numpy(segments.rows[batch, -length - 1 :]).to(device)
            negative_samples = draw_negative_samples(
                self._model.config.items, rows, rng, self._available
            )
            shard, weight = ranks.shard(segments.trained[batch])
            trained = torch.from_numpy(segments.trained[batch][shard]).to(device)
            inputs, targets = rows[shard, :-1], rows[shard, 1:]
            chosen = torch.arange(length, device=device) >= length - trained[:, None]
            columns = negative_samples.columns(targets[chosen])
            importance = None
            if segments.weights is not None:
                of_batch = torch.from_numpy(segments.weights[batch, -length:][shard]).to(device)
                importance = of_batch[chosen]
            catalogue = self._model.network.unit_vectors(negative_samples.rows)
            ahead, about = (
                self._loss(
                    read._replace(bonus_columns=negative_samples.columns(read.bonus_columns + 1)),
                    catalogue,
                    columns,
                    negative_samples.weights,
                    importance,
                )
                for read in self._model.network.read(inputs, chosen)
            )
            yield weight * torch.lerp(ahead, about, ABOUT_LOSS)


class CandidateObjective:
    """Each window with its target and some random negatives as candidates; trains a source BST.

    As in the source, the loss is the binary cross-entropy of each candidate. Samples with labels
    are their own candidates.
    """

    def __init__(self, model: SourceBST, samples: Samples, batch: int, negatives: int) -> None:
        self._model = model
        self._samples = samples
        self._negatives = negatives
        self.steps_per_epoch = max(1, -(-len(samples) // batch))

    def epoch(
        self, rng: np.random.Generator, device: torch.device, ranks: ProcessGroup = SINGLE_PROCESS
    ) -> Iterator[Tensor]:
        """See Objective."""
        order = rng.permutation(len(self._samples))
        for index in np.array_split(order, self.steps_per_epoch):
            batch = self._samples.take(index)
            shard, weight = ranks.shard(np.ones(len(batch), np.int64))
            histories = torch.from_numpy(batch.histories[shard]).to(device)
            targets = torch.from_numpy(batch.targets[shard]).to(device)
            if batch.labels is not None:
                logits = self._model.candidate_logits(histories, targets.unsqueeze(1)).squeeze(1)
                labels = torch.from_numpy(batch.labels[shard]).to(device, logits.dtype)
                yield weight * functional.binary_cross_entropy_with_logits(logits, labels)
                continue
            items = self._model.config.items
            negatives = sample_negatives(batch.targets, self._negatives, items, rng)[shard]
            others = torch.from_numpy(negatives).to(device)
            candidates = torch.cat([targets.unsqueeze(1), others], dim=1)
            logits = self._model.candidate_logits(histories, candidates)
            labels = torch.zeros_like(logits)
            labels[:, 0] = 1.0
            yield weight * functional.binary_cross_entropy_with_logits(logits, labels)
