"""The best k of many scores, without sorting through all of them."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 16
"""Columns of which only the maximum is looked at first."""
_WORTH_IT = 20_000
"""Scores from which on the detour is shorter."""


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and columns of the best k ≤ N of scores [B, N], each [B, k], best first.

    The best k lie in the k blocks whose maxima are the largest: only these are looked at closely.
    """
    rows, columns = scores.shape
    blocks = columns // _BLOCK
    if scores.numel() < _WORTH_IT or blocks < k:
        return torch.topk(scores, k)
    # A block's columns lie apart: maxima of neighbouring ones would cost several times as much.
    maxima = scores[:, : _BLOCK * blocks].view(rows, _BLOCK, blocks).amax(dim=1)
    first = torch.topk(maxima, k, sorted=False).indices
    apart = torch.arange(0, _BLOCK * blocks, blocks, device=scores.device)
    members = (first.unsqueeze(2) + apart).view(rows, -1)
    rest = torch.arange(_BLOCK * blocks, columns, device=scores.device).expand(rows, -1)
    members = torch.cat([members, rest], dim=1)
    values, places = torch.topk(scores.gather(1, members), k)
    return values, members.gather(1, places)
