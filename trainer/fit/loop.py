"""The training loop: optimises the weights of a model for an objective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

from nextclick.shared.model import SessionModel
from nextclick.trainer.data import Samples
from nextclick.trainer.evaluate import discounted_gain, ranks_of
from nextclick.trainer.fit.distributed import SINGLE_PROCESS, ProcessGroup
from nextclick.trainer.fit.objectives import Objective
from nextclick.trainer.fit.presets import Preset

_VALIDATION_BATCH = 512


@dataclass(frozen=True)
class Epoch:
    """One entry of the training curve."""

    epoch: int
    train_loss: float
    validation_loss: float
    """Mean −log P(next click) over the whole catalogue."""
    validation_ndcg: float
    """Mean of 1/log₂(1 + rank) over the whole catalogue; selects the best epoch.

    It is less noisy than a hit rate. The loss is even less noisy, but it requires calibrated
    probabilities, which a fit with label smoothing does not give, so it would select too early an
    epoch.
    """
    seconds: float


def best_epoch(curve: Sequence[Epoch]) -> Epoch:
    """The epoch with the best validation NDCG, whose weights a fit keeps; else the last."""
    if math.isnan(curve[-1].validation_ndcg):
        return curve[-1]
    return max(curve, key=lambda epoch: epoch.validation_ndcg)


def fit(
    model: SessionModel,
    objective: Objective,
    validation: Samples,
    preset: Preset,
    *,
    seed: int,
    device: torch.device,
    warm: bool = False,
    max_epochs: int = 0,
    max_seconds: float = float("inf"),
    stopped: Callable[[], bool] = lambda: False,
    ranks: ProcessGroup = SINGLE_PROCESS,
) -> list[Epoch]:
    """Train `model` in place, and leave it with the weights of its best validation epoch.

    Reproducible on the CPU: the same seed, data and number of threads give the same weights, unless
    `max_seconds` takes effect: then fewer epochs are made, and the learning rate decays sooner.

    warm: the model starts from a champion's weights. max_epochs: 0: as in the preset. stopped: is
    called at every step; the fit ends when it returns true. ranks: every rank calls this with the
    same arguments and ends with the same weights; `stopped` and clock of rank 0 decide.

    The fit ends early after `preset.patience` epochs without a new best NDCG or loss. Returns the
    training curve; its first entry (epoch 0) is the model before training.
    """
    torch.manual_seed(ranks.seed(seed))
    rng = np.random.default_rng(seed)
    model.to(device)
    steps_per_epoch = objective.steps_per_epoch
    epochs = max(preset.epochs, round(preset.steps / steps_per_epoch))
    epochs = min(max_epochs, epochs) if max_epochs else epochs
    peak = preset.warm_learning_rate if warm else preset.learning_rate
    optimizer = torch.optim.AdamW(
        _groups(model, preset.weight_decay), peak, (0.9, 0.98), fused=device.type != "mps"
    )

    ranks.broadcast_weights(model)
    began = time.monotonic()
    loss_before, ndcg_before = _validate(model, validation, device, ranks)
    best_weights = {name: value.clone() for name, value in model.state_dict().items()}
    curve = [Epoch(0, float("nan"), loss_before, ndcg_before, 0.0)]
    halt = False
    step = 0
    bar = tqdm(
        total=epochs * steps_per_epoch,
        desc="fit",
        unit="step",
        leave=False,
        disable=None if ranks.rank == 0 else True,  # None: only a terminal gets a bar
    )
    for epoch in range(1, epochs + 1):
        if epoch > epochs:
            break
        model.train()
        losses = []
        for loss in objective.epoch(rng, device, ranks):
            for group in optimizer.param_groups:
                group["lr"] = peak * _warm_up_then_decay(step / (epochs * steps_per_epoch))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            is_rank_zero = ranks.rank == 0
            halt = is_rank_zero and (stopped() or time.monotonic() - began > max_seconds)
            halt = ranks.average(model, halt)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.detach())
            step += 1
            bar.update()
            if halt:
                break

        validation_loss, ndcg = _validate(model, validation, device, ranks)
        train_loss = ranks.sum(torch.stack(losses).mean().item())[0] / ranks.world_size
        seconds = ranks.from_rank_zero(time.monotonic() - began)
        curve.append(Epoch(epoch, train_loss, validation_loss, ndcg, seconds))
        bar.set_postfix(loss=f"{train_loss:.3f}", ndcg=f"{ndcg:.3f}")
        if best_epoch(curve).epoch == epoch:
            best_weights = {name: value.clone() for name, value in model.state_dict().items()}
        if halt or epoch - _last_progress(curve) >= preset.patience:
            break
        epochs = max(epoch, int(min(epochs, max_seconds * epoch / max(seconds, 1e-9))))
    bar.close()
    model.load_state_dict(best_weights)
    model.eval()
    return curve


def _last_progress(curve: Sequence[Epoch]) -> int:
    """The last epoch with a new best NDCG or loss."""
    if math.isnan(curve[-1].validation_loss):
        return curve[-1].epoch
    return max(best_epoch(curve).epoch, min(curve, key=lambda e: e.validation_loss).epoch)


def _groups(model: SessionModel, weight_decay: float) -> list[dict[str, object]]:
    """Parameter groups: weight decay for matrices, none for biases, norms and scales."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _validate(
    model: SessionModel, validation: Samples, device: torch.device, ranks: ProcessGroup
) -> tuple[float, float]:
    """Mean −log P(next click) and NDCG; both NaN without validation cases."""
    if len(validation) == 0:
        return float("nan"), float("nan")
    model.eval()
    loss = 0.0
    gain = 0.0
    with torch.inference_mode():
        catalogue = model.catalogue()
        starts = range(0, len(validation), _VALIDATION_BATCH)
        for start in starts[ranks.rank :: ranks.world_size]:
            part = validation.take(
                np.arange(start, min(start + _VALIDATION_BATCH, len(validation)))
            )
            logits = model.logits(torch.from_numpy(part.histories).to(device), catalogue)
            targets = torch.from_numpy(part.targets - 1).to(device)
            loss += functional.cross_entropy(logits, targets, reduction="sum").item()
            place = ranks_of(logits.cpu().numpy(), part.targets)
            gain += float(discounted_gain(place).sum())
    loss, gain = ranks.sum(loss, gain)
    return loss / len(validation), gain / len(validation)


def _warm_up_then_decay(done: float) -> float:
    """Learning-rate factor after a fraction `done` of the steps: warm-up over 5 %, decay to 2 %."""
    return min(1.0, done / 0.05 + 0.01, 0.02 + 0.98 * max(0.0, 1.0 - done) / 0.95)
