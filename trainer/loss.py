"""Cross-entropy against the whole catalogue, in one pass and bounded memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shared.bst import Sessions

_ROWS = 256
"""Rows of logits held at once: two buffers of _ROWS × items, small enough to stay in a cache."""


class CatalogueCrossEntropy:
    """Mean −log P(target) of sessions, every item of the catalogue competing.

    The textbook way keeps logits, probabilities and their gradients of a whole batch (hundreds of
    megabytes for a large catalogue). Here each block of rows is turned into its gradients at once
    and forgotten, in buffers that are used again: 3 matrix products and a softmax per block.
    """

    def __init__(self) -> None:
        self._buffers: tuple[Tensor, Tensor] | None = None

    def __call__(self, sessions: Sessions, catalogue: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss, a scalar that can be differentiated.

        catalogue: [items, d], as the model's `catalogue()`; targets: [N], columns 0 … items-1.
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
            self._buffers,
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
        buffers: tuple[Tensor, Tensor],
    ) -> Tensor:
        of_queries = torch.empty_like(queries)
        of_catalogue = torch.zeros_like(catalogue)
        of_bonus = torch.empty_like(bonus)
        loss = queries.new_zeros(())
        for start in range(0, len(queries), _ROWS):
            rows = slice(start, start + _ROWS)
            query, column, target = queries[rows], bonus_columns[rows], targets[rows, None]
            logits, gradient = (buffer[: len(query)] for buffer in buffers)
            torch.mm(query, catalogue.T, out=logits)
            logits.scatter_add_(1, column, bonus[rows])
            torch.softmax(logits, 1, out=gradient)
            probability = gradient.gather(1, target)
            loss -= probability.clamp(min=1e-30).log().sum()
            # d loss / d logits = probability − [is the target]
            gradient.scatter_add_(1, target, torch.full_like(probability, -1.0))
            torch.mm(gradient, catalogue, out=of_queries[rows])
            of_catalogue.addmm_(gradient.T, query)
            of_bonus[rows] = gradient.gather(1, column)
        ctx.save_for_backward(of_queries, of_catalogue, of_bonus)
        return loss / len(queries)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        of_queries, of_catalogue, of_bonus = ctx.saved_tensors
        factor = outer[0] / len(of_queries)
        return factor * of_queries, factor * of_catalogue, factor * of_bonus, None, None, None
