"""How much each part of a fitted BST has to say: chosen on the validation clicks."""

from __future__ import annotations

import numpy as np
import torch

from shared.bst import BST
from trainer.dataset import Samples
from trainer.evaluate import ranks_of

WEIGHT_WITHOUT_VALIDATION = 0.1
MOST_WEIGHT = 0.99
"""However right the neighbours were on the validation: other items must stay possible."""
_SHARES = np.linspace(0.0, 1.0, 11)
_SHARE_CASES = 5000
_EM_STEPS = 50
_BATCH = 256


def mix(model: BST, validation: Samples, device: torch.device) -> None:
    """Set what is about and what ahead first, then how much the neighbours add to that."""
    choose_about_share(model, validation, device)
    weigh_neighbours(model, validation, device)


def choose_about_share(model: BST, validation: Samples, device: torch.device) -> None:
    """Set the share that ranks best: by 1/log₂(1 + rank), as in `fit`, on some of the cases.

    The likelihood would ask for calibrated readings, which label smoothing does not give. Without
    validation both readings count alike.
    """
    if len(validation) == 0:
        model.about_share.fill_(0.5)
        return
    some = np.unique(np.linspace(0, len(validation) - 1, _SHARE_CASES).astype(np.int64))
    gains = np.zeros(len(_SHARES))
    with torch.inference_mode():
        catalogue = model.catalogue()
        for start in range(0, len(some), _BATCH):
            batch = validation.take(some[start : start + _BATCH])
            ahead, about = model.readings(torch.from_numpy(batch.histories).to(device))
            by_ahead, by_about = model.score(ahead, catalogue), model.score(about, catalogue)
            for number, share in enumerate(_SHARES):
                mixed = torch.lerp(by_ahead, by_about, float(share))
                ranks = ranks_of(mixed.cpu().numpy(), batch.targets)
                gains[number] += (1.0 / np.log2(1.0 + ranks)).sum()
    model.about_share.fill_(float(_SHARES[gains.argmax()]))


def weigh_neighbours(model: BST, validation: Samples, device: torch.device) -> None:
    """Set the neighbours' weight to what makes the validation clicks likeliest.

    A mixture of two fixed distributions has one maximum; expectation maximisation (Dempster et
    al., 1977) finds it.
    """
    if len(validation) == 0:
        model.neighbours.weight.fill_(WEIGHT_WITHOUT_VALIDATION)
        return
    by_network, by_neighbours = [], []
    with torch.inference_mode():
        catalogue = model.catalogue()
        for start in range(0, len(validation), _BATCH):
            batch = validation.take(np.arange(start, min(start + _BATCH, len(validation))))
            histories = torch.from_numpy(batch.histories).to(device)
            target = torch.from_numpy(batch.targets - 1).to(device).unsqueeze(1)
            network = torch.softmax(model.logits(histories, catalogue), dim=1)
            by_network.append(network.gather(1, target))
            by_neighbours.append(model.neighbours.votes(histories).gather(1, target))
    network, votes = torch.cat(by_network).double(), torch.cat(by_neighbours).double()
    weight = 0.2
    for _ in range(_EM_STEPS):
        mixed = weight * votes
        weight = float((mixed / (mixed + (1 - weight) * network).clamp(min=1e-30)).mean())
    model.neighbours.weight.fill_(min(weight, MOST_WEIGHT))
