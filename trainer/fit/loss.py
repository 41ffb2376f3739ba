"""Cross-entropy against the whole catalogue, in one pass and bounded memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nextclick.shared.model.bst_network import Sessions

_ROWS = 256
"""Rows of logits held at once: two buffers of _ROWS × items, small enough to stay in a cache."""


class CatalogueCrossEntropy:
    """Mean −log P(target) of sessions, every item of the catalogue competing.

    With label smoothing ε, a share ε of every target is spread over the catalogue (Szegedy et al.,
    2016).

    The textbook way keeps logits, probabilities and their gradients of a whole batch (hundreds of
    megabytes for a large catalogue). Here each block of rows is turned into its gradients at once
    and forgotten, in buffers that are used again: 3 matrix products and a softmax per block.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self._smoothing = label_smoothing
        self._buffers: tuple[Tensor, Tensor] | None = None

    def __call__(
        self,
        sessions: Sessions,
        catalogue: Tensor,
        targets: Tensor,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss, a scalar that can be differentiated.

        catalogue: [items, d], unit vectors; targets: [N], columns 0 … items-1. stands_for:
        [items], how many items each stands for, 1 for every target and clicked item (see
        `negative_samples`); None: 1 for all.
        """
        shape = (_ROWS, len(catalogue))
        if self._buffers is None or self._buffers[0].shape != shape:
            self._buffers = (catalogue.new_empty(shape), catalogue.new_empty(shape))
        loss: Tensor = _Function.apply(  # type: ignore[no-untyped-call]
            sessions.queries,
            catalogue,
            sessions.bonus,
            sessions.bonus_columns,
            targets,
            weights,
            self._buffers,
            self._smoothing,
        )
        return loss


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        catalogue: Tensor,
        bonus: Tensor,
        bonus_columns: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        buffers: tuple[Tensor, Tensor],
        smoothing: float,
    ) -> Tensor:
        weight = queries.new_ones(len(catalogue)) if weights is None else weights
        log_weight, items = weight.log(), float(weight.sum())
        sum_of_logits = queries @ (weight @ catalogue) + bonus.sum(dim=1)
        of_queries = torch.empty_like(queries)
        of_catalogue = torch.zeros_like(catalogue)
        of_bonus = torch.empty_like(bonus)
        loss = queries.new_zeros(())
        for start in range(0, len(queries), _ROWS):
            rows = slice(start, start + _ROWS)
            query, column, target = queries[rows], bonus_columns[rows], targets[rows, None]
            logits, gradient = (buffer[: len(query)] for buffer in buffers)
            torch.addmm(log_weight, query, catalogue.T, out=logits)
            logits.scatter_add_(1, column, bonus[rows])
            torch.softmax(logits, 1, out=gradient)
            of_target = logits.gather(1, target).squeeze(1)
            probability = gradient.gather(1, target).squeeze(1).clamp(min=1e-30)
            # Mean of −log P over the catalogue: log Σ exp logit − mean logit.
            spread = of_target - probability.log() - sum_of_logits[rows] / items
            loss += ((1 - smoothing) * -probability.log() + smoothing * spread).sum()
            # d loss / d logits = probability − smoothed target
            if smoothing:
                gradient -= smoothing / items * weight
            gradient.scatter_add_(1, target, torch.full_like(query[:, :1], smoothing - 1.0))
            torch.mm(gradient, catalogue, out=of_queries[rows])
            of_catalogue.addmm_(gradient.T, query)
            of_bonus[rows] = gradient.gather(1, column)
        ctx.save_for_backward(of_queries, of_catalogue, of_bonus)
        return loss / len(queries)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        of_queries, of_catalogue, of_bonus = ctx.saved_tensors
        factor = outer[0] / len(of_queries)
        gradients = (factor * of_queries, factor * of_catalogue, factor * of_bonus)
        return *gradients, None, None, None, None, None
