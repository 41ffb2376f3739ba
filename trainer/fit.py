"""The fit: one flat loop from samples to weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from shared.bst import BST
from trainer.dataset import Samples, sample_negatives
from trainer.evaluate import ranks_of
from trainer.presets import Preset


@dataclass(frozen=True)
class Epoch:
    """One line of the training curve."""

    epoch: int
    train_loss: float
    validation_loss: float
    """Mean −log P(next click) over the whole catalogue: smoother than HR@10, so it decides."""
    validation_hr10: float
    seconds: float


def fit(
    model: BST,
    train: Samples,
    validation: Samples,
    preset: Preset,
    *,
    seed: int,
    device: torch.device,
    warm: bool = False,
    max_epochs: int = 0,
    max_seconds: float = float("inf"),
    stopped: Callable[[], bool] = lambda: False,
    progress: bool = True,
) -> list[Epoch]:
    """Train `model` in place and leave it with the weights of its best validation epoch.

    Reproducible on the CPU: the same seed, data and number of threads give the same weights,
    unless `max_seconds` cuts it. `warm` says that the model comes from a champion. `stopped`
    is asked at every step; when it turns true the fit ends early.
    Returns the training curve; its first entry (epoch 0) is the model as it came.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model.to(device)
    epochs = min(max_epochs, preset.epochs) if max_epochs else preset.epochs
    steps_per_epoch = -(-len(train) // preset.batch_size)
    peak = preset.warm_learning_rate if warm else preset.learning_rate
    optimizer = torch.optim.AdamW(model.parameters(), peak, weight_decay=preset.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _warm_up_then_decay(step / (epochs * steps_per_epoch))
    )

    began = time.monotonic()
    loss_before, hr10_before = _validate(model, validation, device)
    best_weights = {name: value.clone() for name, value in model.state_dict().items()}
    best_loss, best_epoch = loss_before, 0
    curve = [Epoch(0, float("nan"), loss_before, hr10_before, 0.0)]
    out_of_time = False
    bar = tqdm(
        total=epochs * steps_per_epoch,
        desc="fit",
        unit="step",
        leave=False,
        disable=None if progress else True,  # None: only a terminal gets a bar
    )
    for epoch in range(1, epochs + 1):
        model.train()
        losses = []
        for index in np.array_split(rng.permutation(len(train)), steps_per_epoch):
            loss = _loss(model, train.take(index), preset, rng, device)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
            bar.update()
            out_of_time = time.monotonic() - began > max_seconds
            if stopped() or out_of_time:
                break

        validation_loss, hr10 = _validate(model, validation, device)
        train_loss = torch.stack(losses).mean().item()
        seconds = time.monotonic() - began
        curve.append(Epoch(epoch, train_loss, validation_loss, hr10, seconds))
        bar.set_postfix(loss=f"{train_loss:.3f}", hr10=f"{hr10:.3f}")
        if validation_loss < best_loss or len(validation) == 0:
            best_loss, best_epoch = validation_loss, epoch
            best_weights = {name: value.clone() for name, value in model.state_dict().items()}
        if stopped() or out_of_time or epoch - best_epoch >= preset.patience:
            break
    bar.close()
    model.load_state_dict(best_weights)
    model.eval()
    return curve


def _loss(
    model: BST, batch: Samples, preset: Preset, rng: np.random.Generator, device: torch.device
) -> Tensor:
    histories = torch.from_numpy(batch.histories).to(device)
    targets = torch.from_numpy(batch.targets).to(device)
    items = model.config.items
    if batch.labels is not None:  # a table that brings its own negatives
        logits = model.candidate_logits(histories, targets.unsqueeze(1)).squeeze(1)
        labels = torch.from_numpy(batch.labels).to(device, logits.dtype)
        return functional.binary_cross_entropy_with_logits(logits, labels)
    if preset.loss == "cross_entropy" and items <= preset.negatives:
        return functional.cross_entropy(model(histories), targets - 1)

    negatives = torch.from_numpy(sample_negatives(batch.targets, preset.negatives, items, rng))
    candidates = torch.cat([targets.unsqueeze(1), negatives.to(device)], dim=1)
    logits = model.candidate_logits(histories, candidates)
    if preset.loss == "cross_entropy":
        return functional.cross_entropy(logits, torch.zeros_like(targets))
    labels = torch.zeros_like(logits)
    labels[:, 0] = 1.0
    return functional.binary_cross_entropy_with_logits(logits, labels)


def _validate(model: BST, validation: Samples, device: torch.device) -> tuple[float, float]:
    """Mean −log P(next click) and HR@10; without validation the last epoch is the best."""
    if len(validation) == 0:
        return float("nan"), float("nan")
    model.eval()
    loss = 0.0
    hits = 0
    with torch.inference_mode():
        target_half = model.target_half()
        for start in range(0, len(validation), 1024):
            part = validation.take(np.arange(start, min(start + 1024, len(validation))))
            logits = model(torch.from_numpy(part.histories).to(device), target_half)
            targets = torch.from_numpy(part.targets - 1).to(device)
            loss += functional.cross_entropy(logits, targets, reduction="sum").item()
            hits += int((ranks_of(logits.cpu().numpy(), part.targets) <= 10).sum())
    return loss / len(validation), hits / len(validation)


def _warm_up_then_decay(done: float) -> float:
    """Learning-rate factor at a share `done` of the steps: up over 5 %, then down to 5 %."""
    return min(1.0, done / 0.05 + 0.01, 0.05 + 0.95 * (1.0 - done) / 0.95)
