"""Chooses the mixing weights of a fitted BST on the validation clicks.

The criterion is the mean of 1/log₂(1 + rank), as for the best epoch (`loop`). The likelihood would
require calibrated probabilities, which label smoothing does not give, and would give the neighbours
too small a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nextclick.shared.model import BST
from nextclick.trainer.data import Samples
from nextclick.trainer.evaluate import discounted_gain, ranks_of

SHARE_WITHOUT_VALIDATION = 0.5
WEIGHT_WITHOUT_VALIDATION = 0.1
SHARES = np.linspace(0.0, 1.0, 11)
WEIGHTS = np.array([0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 0.99])
"""All below 1, so that items without votes keep a probability above 0."""
_CASES = 20_000
"""Most validation cases used. With 5,000, the choice between 0.1 and 0.3 was random."""
_BATCH = 256


def mix(model: BST, validation: Samples, device: torch.device) -> None:
    """Set the share of the *about* reading first, then the weight of the neighbours."""
    choose_about_share(model, validation, device)
    choose_neighbours_share(model, validation, device)


def choose_about_share(model: BST, validation: Samples, device: torch.device) -> None:
    """Set about_share to that of SHARES with which the network ranks the validation best."""

    def mixed(histories: Tensor, catalogue: Tensor) -> Iterator[Tensor]:
        ahead, about = model.readings(histories)
        by_ahead, by_about = model.score(ahead, catalogue), model.score(about, catalogue)
        for share in SHARES:
            yield torch.lerp(by_ahead, by_about, float(share))

    best = _best(SHARES, mixed, model, validation, device)
    model.about_share.fill_(SHARE_WITHOUT_VALIDATION if best is None else best)


def choose_neighbours_share(model: BST, validation: Samples, device: torch.device) -> None:
    """Set the neighbours' weight to that of WEIGHTS with the best ranking of the validation."""

    def mixed(histories: Tensor, catalogue: Tensor) -> Iterator[Tensor]:
        logits = model.logits(histories, catalogue)
        for weight in WEIGHTS:
            model.neighbours.weight.fill_(weight)
            yield model.log_probabilities(logits, histories)

    best = _best(WEIGHTS, mixed, model, validation, device)
    model.neighbours.weight.fill_(WEIGHT_WITHOUT_VALIDATION if best is None else best)


def sampled(validation: Samples) -> Samples:
    """All validation cases, or _CASES of them at equal distances; there must be one."""
    return validation.take(np.unique(np.linspace(0, len(validation) - 1, _CASES).astype(np.int64)))


def _best(
    options: npt.NDArray[np.float64],
    scores_under: Callable[[Tensor, Tensor], Iterator[Tensor]],
    model: BST,
    validation: Samples,
    device: torch.device,
) -> float | None:
    """The option with the best ranking of up to _CASES validation cases; None if there are none.

    scores_under: (histories, catalogue) → an iterator of scores [B, items], one for each option.
    """
    if len(validation) == 0:
        return None
    cases = sampled(validation)
    gains = np.zeros(len(options))
    with torch.inference_mode():
        catalogue = model.catalogue()
        for start in range(0, len(cases), _BATCH):
            batch = cases.take(np.arange(start, min(start + _BATCH, len(cases))))
            histories = torch.from_numpy(batch.histories).to(device)
            for number, scores in enumerate(scores_under(histories, catalogue)):
                ranks = ranks_of(scores.cpu().numpy(), batch.targets)
                gains[number] += discounted_gain(ranks).sum()
    return float(options[gains.argmax()])
