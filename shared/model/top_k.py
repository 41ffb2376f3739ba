"""The best k of many scores, faster than torch.topk."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_BLOCK = 16
"""Columns in a block."""
_MIN_WORK = 120_000
"""Below this many scores, times k, torch.topk is faster."""
_PARTITION_FROM = 32
"""From this k on NumPy's partition is faster than torch.topk on a CPU."""


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and columns of the best k ≤ N of scores [B, N], each [B, k], best first.

    The best k lie in the k blocks with the largest maxima, so only these are searched.
    """
    rows, columns = scores.shape
    blocks = columns // _BLOCK
    if scores.numel() * k < _MIN_WORK or blocks < k:
        return torch.topk(scores, k)
    # Blocks are strided: blocks of adjacent columns would take several times as long to reduce.
    maxima = scores[:, : _BLOCK * blocks].view(rows, _BLOCK, blocks).amax(dim=1)
    first = _largest(maxima, k)
    apart = torch.arange(0, _BLOCK * blocks, blocks, device=scores.device)
    members = (first.unsqueeze(2) + apart).view(rows, -1)
    if columns > _BLOCK * blocks:
        rest = torch.arange(_BLOCK * blocks, columns, device=scores.device).expand(rows, -1)
        members = torch.cat([members, rest], dim=1)
    values, places = _best(scores.gather(1, members), k)
    return values, members.gather(1, places)


def _best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As `top_k`, of few columns."""
    if not _partitions(scores, k):
        return torch.topk(scores, k)
    places = _largest(scores, k)
    values, order = scores.gather(1, places).sort(dim=1, descending=True)
    return values, places.gather(1, order)


def _largest(scores: Tensor, k: int) -> Tensor:
    """Columns of the best k of scores [B, N], in any order."""
    if not _partitions(scores, k):
        return torch.topk(scores, k, sorted=False).indices
    n = scores.shape[1]
    return torch.from_numpy(np.argpartition(scores.numpy(), n - k, axis=1)[:, n - k :])


def _partitions(scores: Tensor, k: int) -> bool:
    return scores.device.type == "cpu" and _PARTITION_FROM <= k < scores.shape[1]
