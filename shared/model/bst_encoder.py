"""The encoder of a BST, made ready to serve: the numbers of `bst.BST.encode` from fewer operators.

For one click, starting an operator costs more than its arithmetic. So all that depends on nothing
but the weights is computed once, when a model is loaded:

- The scale and shift of a norm, and the 1/√d of attention, are part of the product that follows.
  Query, key and value of a layer are one product.
- The last layer is asked at the newest click only. Its keys are needed for q·(K n) alone, which is
  (Kᵀq)·n: one product for a window in place of one for each click. The same holds for its values,
  and for the keys of what a session is about. A shift of all keys changes no softmax: left out.
- The bias of a distance is laid out for windows of every length.
- Hidden states are held divided by √d, so that item vectors enter as they are; a norm does not
  notice, but for its epsilon.

Training goes through `bst_network`; `tests/unit/shared/model/test_bst_encoder.py` holds the two
together.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from nextclick.shared.model.bst_network import EncoderLayer, Network, Sessions
from nextclick.shared.windows import HISTORY_LENGTH, PADDING

_HIDDEN = -1e9
"""Added to an attention score of a click that must not be seen. Finite: padding sees nothing but
padding, and its softmax must not be NaN."""


class BSTEncoder:
    """Encodes windows, without dropout and without gradients."""

    def __init__(self, network: Network, about_share: float, catalogue: Tensor) -> None:
        """Fold the weights. catalogue: unit item vectors [items, d], on the device that serves."""
        *earlier, last = cast(list[EncoderLayer], list(network.layers))
        device = catalogue.device
        self._catalogue = catalogue
        self._layers = [_Layer(layer, device) for layer in earlier]
        self._newest = _NewestLayer(last, device)
        self._readout = _Readout(network, about_share, device)

    def __call__(self, histories: Tensor) -> Sessions:
        """Encode windows [B, L] of rows, left-padded to the longest of them, L ≤ HISTORY_LENGTH.

        The columns and their bonus are those of the L clicks, oldest first.
        """
        columns = (histories - 1).clamp_(min=0)
        hidden = items = functional.embedding(columns, self._catalogue)
        # A window alone has no padding, and needs no mask.
        padding = histories == PADDING if len(histories) > 1 else None
        mask = None if padding is None else (padding * _HIDDEN).unsqueeze(1)
        for layer in self._layers:
            hidden = layer(hidden, mask)
        normed = _normed(hidden)
        ahead = self._newest(hidden[:, -1], normed, mask)
        queries, bonus = self._readout(ahead, normed, items, mask)
        if padding is not None:
            bonus = bonus.masked_fill(padding, 0.0)
        return Sessions(queries, columns, bonus)


def _normed(hidden: Tensor) -> Tensor:
    """A layer norm without scale and shift, of hidden states [..., d] divided by √d."""
    d = hidden.shape[-1]
    return functional.layer_norm(hidden, (d,), eps=_EPSILON / d)


_EPSILON = nn.LayerNorm(1).eps


class _Weights:
    """A linear layer as float64 on the CPU: x ↦ x W + b."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """weight: [in, out]; bias: [out]."""
        self.weight, self.bias = weight, bias

    @classmethod
    def of(cls, linear: nn.Linear) -> _Weights:
        return cls(_exact(linear.weight).T, _exact(linear.bias))

    def after(self, norm: nn.LayerNorm) -> _Weights:
        """For input to which the scale and shift of `norm` have not been applied."""
        bias = self.bias + _exact(norm.bias) @ self.weight
        return _Weights(_exact(norm.weight)[:, None] * self.weight, bias)

    def times(self, factor: float) -> _Weights:
        """The output times a factor."""
        return _Weights(self.weight * factor, self.bias * factor)

    def beside(self, *others: _Weights) -> _Weights:
        """The outputs of several side by side."""
        every = (self, *others)
        return _Weights(torch.cat([w.weight for w in every], 1), torch.cat([w.bias for w in every]))


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()  # not every device has float64


class _Product:
    """Applies folded weights: [N, in] to [N, out]."""

    def __init__(self, weights: _Weights, device: torch.device) -> None:
        self._weight = weights.weight.float().contiguous().to(device)
        self._bias = weights.bias.float().to(device)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.addmm(self._bias, x, self._weight)


def _by_length(bias: Tensor, device: torch.device) -> list[Tensor]:
    """Lay out a bias per distance [..., HISTORY_LENGTH]: for each length L a [..., L, L]."""
    laid_out = []
    for length in range(HISTORY_LENGTH + 1):
        place = torch.arange(length)
        distance = place[:, None] - place  # key to query
        found = bias.detach().cpu()[..., distance.clamp(min=0)]
        laid_out.append(found.masked_fill(distance < 0, _HIDDEN).to(device))
    return laid_out


class _FeedForward:
    """The second half of a layer, with its residual: [N, d] to [N, d]."""

    def __init__(self, layer: EncoderLayer, device: torch.device) -> None:
        scale = 1 / math.sqrt(layer.feedforward_in.in_features)
        inner = _Weights.of(layer.feedforward_in).after(layer.feedforward_norm)
        self._inner = _Product(inner, device)
        self._out = _Product(_Weights.of(layer.feedforward_out).times(scale), device)

    def __call__(self, hidden: Tensor) -> Tensor:
        return self._out(functional.gelu(self._inner(_normed(hidden)))).add_(hidden)


class _Layer:
    """A layer that is asked at every click."""

    def __init__(self, layer: EncoderLayer, device: torch.device) -> None:
        d = layer.query.in_features
        self._heads = layer.heads
        query = _Weights.of(layer.query).times(math.sqrt(layer.heads / d))
        together = query.beside(_Weights.of(layer.key), _Weights.of(layer.value))
        self._query_key_value = _Product(together.after(layer.attention_norm), device)
        self._out = _Product(_Weights.of(layer.attention_out).times(1 / math.sqrt(d)), device)
        self._bias = [bias.unsqueeze(0) for bias in _by_length(layer.distance_bias, device)]
        self._feed_forward = _FeedForward(layer, device)

    def __call__(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """hidden: [B, L, d]; mask: [B, 1, L], added to the scores."""
        batch, length, d = hidden.shape
        flat = hidden.view(-1, d)
        together = self._query_key_value(_normed(flat)).view(batch, length, 3, self._heads, -1)
        query, key, value = together.permute(2, 0, 3, 1, 4)
        bias = self._bias[length]
        if mask is not None:
            bias = bias + mask.unsqueeze(1)
        mixed = functional.scaled_dot_product_attention(query, key, value, bias, scale=1.0)
        attended = self._out(mixed.transpose(1, 2).reshape(-1, d)).add_(flat)
        return self._feed_forward(attended).view(batch, length, d)


class _NewestLayer:
    """A layer that is asked at the newest click only."""

    def __init__(self, layer: EncoderLayer, device: torch.device) -> None:
        d, heads = layer.query.in_features, layer.heads
        self._heads = heads
        norm = layer.attention_norm
        query = _Weights.of(layer.query).after(norm).times(math.sqrt(heads / d))
        key, value = _Weights.of(layer.key).after(norm), _Weights.of(layer.value).after(norm)
        out = _Weights.of(layer.attention_out)

        def per_head(tensor: Tensor) -> Tensor:
            return tensor.view(*tensor.shape[:-1], heads, -1)

        keys = per_head(key.weight)
        asked = torch.einsum("ihk,jhk->ihj", per_head(query.weight), keys).reshape(d, -1)
        asked_bias = torch.einsum("hk,jhk->hj", per_head(query.bias), keys).reshape(-1)
        self._query = _Product(_Weights(asked, asked_bias), device)
        per_head_out = out.weight.view(heads, -1, d)
        answered = torch.einsum("ihk,hkj->hij", per_head(value.weight), per_head_out)
        answered_bias = value.bias @ out.weight + out.bias  # attention weights add up to 1
        folded = _Weights(answered.reshape(-1, d), answered_bias).times(1 / math.sqrt(d))
        self._out = _Product(folded, device)
        self._bias = [
            bias[:, -1:].transpose(0, 1) for bias in _by_length(layer.distance_bias, device)
        ]
        self._feed_forward = _FeedForward(layer, device)

    def __call__(self, newest: Tensor, normed: Tensor, mask: Tensor | None) -> Tensor:
        """newest: [B, d], the hidden states of the newest clicks; normed: [B, L, d], of all.

        mask: [B, 1, L], added to the scores. Returns [B, d].
        """
        batch, length, d = normed.shape
        bias = self._bias[length]
        if mask is not None:
            bias = bias + mask
        query = self._query(normed[:, -1]).view(batch, self._heads, d)
        scores = torch.baddbmm(bias, query, normed.transpose(1, 2))
        mixed = torch.bmm(torch.softmax(scores, dim=-1), normed)
        return self._feed_forward(self._out(mixed.view(batch, -1)).add_(newest))


class _Readout:
    """From the newest hidden states to queries and bonuses: both readings, mixed."""

    def __init__(self, network: Network, about_share: float, device: torch.device) -> None:
        self._d = d = network.about_query.in_features
        keys = _Weights.of(network.about_key).after(network.norm).weight / math.sqrt(d)
        query = _Weights.of(network.about_query)
        ahead, about = _Weights.of(network.ahead.repeat), _Weights.of(network.about.repeat)
        oldest_first = _Weights(
            torch.lerp(ahead.weight, about.weight, about_share).flip(1),
            torch.lerp(ahead.bias, about.bias, about_share).flip(0),
        )
        folded = _Weights(query.weight @ keys.T, query.bias @ keys.T).beside(oldest_first)
        self._product = _Product(folded.after(network.norm), device)
        self._norm_weight = _exact(network.norm.weight).float().to(device)
        self._norm_bias = _exact(network.norm.bias).float().to(device)
        self._bias = [bias[None, -1:] for bias in _by_length(network.about_bias, device)]
        scales = [
            (1 - about_share) * network.ahead.log_scale.exp().item(),
            about_share * network.about.log_scale.exp().item(),
        ]
        self._scales = torch.tensor(scales, device=device)[:, None, None]

    def __call__(
        self, newest: Tensor, normed: Tensor, items: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """newest: [B, d]; normed, items: [B, L, d]; mask: [B, 1, L], added to the scores.

        Returns queries [B, d], and a bonus for each click [B, L].
        """
        length = normed.shape[1]
        bias = self._bias[length]
        if mask is not None:
            bias = bias + mask
        newest = _normed(newest)
        asked = self._product(newest)
        scores = torch.baddbmm(bias, asked[:, None, : self._d], normed.transpose(1, 2))
        about = torch.bmm(torch.softmax(scores, dim=-1), items).squeeze(1)
        ahead = torch.addcmul(self._norm_bias, newest, self._norm_weight)
        directions = functional.normalize(torch.stack([ahead, about]), dim=-1)
        return (directions * self._scales).sum(dim=0), asked[:, asked.shape[1] - length :]
