"""Cross-entropy over the whole catalogue, in one pass and bounded memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nextclick.shared.model.bst_network import Sessions

_ROWS = 256
"""Rows of logits in memory at once: two buffers of _ROWS × items, which fit into a cache."""


class CatalogueCrossEntropy:
    """Mean −log P(target) of sessions, with a softmax over the catalogue.

    With label smoothing ε, a share ε of every target is spread over the catalogue (Szegedy et al.,
    2016).

    The usual implementation keeps logits, probabilities and gradients of the whole batch, hundreds
    of megabytes for a large catalogue. Here the forward pass computes the gradients of one block of
    rows at a time, in reused buffers: 3 matrix products and a softmax per block.
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
        importance: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss, a differentiable scalar.

        catalogue: [items, d], unit vectors; targets: [N], columns 0 … items-1. weights: [items],
        the number of items that each one represents, 1 for every target and clicked item (see
        `negative_samples`); None: 1 for all. importance: [N], the weight of each target in the
        mean; None: 1 for all. The loss is 0 if all are 0.
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
            importance,
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
        importance: Tensor | None,
        buffers: tuple[Tensor, Tensor],
        smoothing: float,
    ) -> Tensor:
        weight = queries.new_ones(len(catalogue)) if weights is None else weights
        log_weight, items = weight.log(), float(weight.sum())
        sum_of_logits = queries @ (weight @ catalogue) + bonus.sum(dim=1)
        query_gradients = torch.empty_like(queries)
        catalogue_gradients = torch.zeros_like(catalogue)
        bonus_gradients = torch.empty_like(bonus)
        loss = queries.new_zeros(())
        for start in range(0, len(queries), _ROWS):
            rows = slice(start, start + _ROWS)
            query, column, target = queries[rows], bonus_columns[rows], targets[rows, None]
            logits, gradient = (buffer[: len(query)] for buffer in buffers)
            torch.addmm(log_weight, query, catalogue.T, out=logits)
            logits.scatter_add_(1, column, bonus[rows])
            torch.softmax(logits, 1, out=gradient)
            target_logits = logits.gather(1, target).squeeze(1)
            probability = gradient.gather(1, target).squeeze(1).clamp(min=1e-30)
            # Mean of −log P over the catalogue: log Σ exp logit − mean logit.
            uniform_loss = target_logits - probability.log() - sum_of_logits[rows] / items
            losses = (1 - smoothing) * -probability.log() + smoothing * uniform_loss
            loss += losses.sum() if importance is None else losses @ importance[rows]
            # d loss / d logits = probability − smoothed target
            if smoothing:
                gradient -= smoothing / items * weight
            gradient.scatter_add_(1, target, torch.full_like(query[:, :1], smoothing - 1.0))
            if importance is not None:
                gradient *= importance[rows, None]
            torch.mm(gradient, catalogue, out=query_gradients[rows])
            catalogue_gradients.addmm_(gradient.T, query)
            bonus_gradients[rows] = gradient.gather(1, column)
        ctx.save_for_backward(query_gradients, catalogue_gradients, bonus_gradients)
        ctx.total = len(queries) if importance is None else float(importance.sum()) or 1.0
        mean: Tensor = loss / ctx.total
        return mean

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        query_gradients, catalogue_gradients, bonus_gradients = ctx.saved_tensors
        factor = outer[0] / ctx.total
        gradients = (
            factor * query_gradients,
            factor * catalogue_gradients,
            factor * bonus_gradients,
        )
        return *gradients, None, None, None, None, None, None
