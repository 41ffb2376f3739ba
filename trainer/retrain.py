"""One retraining: event log → candidate → gate → refit → registry.

Only the last step changes what workers see, so a refused, stopped or crashed retraining does not
affect them. A version that is published without being promoted does not, either: the champion stays
the version that serves.

What is published has learned the clicks by which it was judged. So that no retraining compares with
a model that knows the test, or starts from one that knows the validation, the model as it was
judged stays beside it: that is the champion of the next retraining.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import torch

from nextclick.shared.errors import CheckpointError
from nextclick.shared.item_features import MAX_COLD_ITEMS, NO_CONTENTS, Contents
from nextclick.shared.model import BSTConfig, Checkpoint, Vocabulary
from nextclick.shared.registry import Registry
from nextclick.shared.windows import IntArray
from nextclick.trainer.collect import LogState
from nextclick.trainer.compare.baselines.neighbours import VSkNN
from nextclick.trainer.data import (
    ClickLog,
    LeftOut,
    Samples,
    Split,
    bound_contributions,
    click_log,
    samples,
)
from nextclick.trainer.evaluate import (
    Evaluation,
    evaluate,
    evaluate_model,
    evaluate_popularity,
    gate,
)
from nextclick.trainer.evaluate.case_segments import case_segments
from nextclick.trainer.fit.distributed import SINGLE_PROCESS, ProcessGroup
from nextclick.trainer.fit.loop import best_epoch
from nextclick.trainer.fit.pipeline import fit_model
from nextclick.trainer.fit.presets import Preset
from nextclick.trainer.fit.refit import refit
from nextclick.trainer.fit.related import related_lists

log = logging.getLogger(__name__)


MAX_CASES = 20_000
"""Most held-out clicks that judge a candidate: enough to see half a point of HR@10, in seconds."""

REFIT_CASES = 5_000
"""Most of them that check a refit."""

CHAMPION_CHECK_CASES = 1_000
"""Held-out clicks that a champion must rank with finite scores before a fit starts from it."""


@dataclass(frozen=True)
class FitLimits:
    """Seed and limits of a fit; max_epochs 0: as in the preset."""

    seed: int
    max_epochs: int = 0
    max_seconds: float = float("inf")


@dataclass(frozen=True)
class Outcome:
    """How a retraining ended."""

    version: str | None
    """The published version, or None if the gate refused."""
    reason: str
    seconds: float
    refusal: str = ""
    """If nothing was published: the gate's reason as a metric label, or `nothing_to_learn`."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """Clicks that did not count."""
    waits: bool = False
    """Whether the version was published without being promoted."""


def retrain(
    frame: pd.DataFrame,
    registry: Registry,
    preset: Preset,
    limits: FitLimits,
    *,
    gap_ms: int,
    device: torch.device,
    max_per_minute: int = 0,
    forget_count: int = 0,
    retired: Collection[str] = (),
    contents: Contents = NO_CONTENTS,
    max_cold_items: int = MAX_COLD_ITEMS,
    log_state: LogState | None = None,
    promote: bool = True,
    stopped: Callable[[], bool] = lambda: False,
    ranks: ProcessGroup = SINGLE_PROCESS,
) -> Outcome | None:
    """Fit a candidate on a log, compare it with the champion, and publish it if the gate agrees.

    frame: as from EventLog.read. gap_ms: the session gap. max_per_minute: see
    `bound_contributions`. forget_count: see `Tombstones.count`, from before the log was read; from
    a champion that was trained at another count nothing is taken over, and it is not compared with.
    retired: items on which clicks do not count, so that the candidate does not know them.
    contents, max_cold_items: what is known about items, by item id; see `learnable_contents`.
    log_state: that of the event log before it was read, for `last_trained_on`. promote: see
    `Registry.publish`. Returns None if `stopped` turns true.
    Of several ranks, rank 0 calls this; the others call `fit_with_rank_zero`. Raises Unavailable if
    the registry cannot be reached.
    """
    began = time.monotonic()
    if retired:
        frame = frame[~frame["item_id"].isin(list(retired))].reset_index(drop=True)
    frame, left_out = bound_contributions(frame, max_per_minute)
    data = click_log(frame, gap_ms, stable=True)

    def outcome(version: str | None, reason: str, refusal: str = "") -> Outcome:
        return Outcome(version, reason, time.monotonic() - began, refusal, left_out)

    if reason := nothing_to_learn(data):
        return outcome(None, reason, "nothing_to_learn")
    name, champion = current_champion(registry)
    if champion is not None and (reason := _unusable_reason(champion, data, device)):
        log.error("the champion %s is not usable, the fit starts from scratch: %s", name, reason)
        name, champion = None, None
    restarted = ""
    if champion is not None and champion.training.get("forget_count", 0) != forget_count:
        restarted = f"{name} was trained on users who were forgotten since"
        log.info("the fit starts from scratch: %s", restarted)
        name, champion = None, None
    contents = learnable_contents(contents, data, max_cold_items)
    ranks.send_log(_recipe(preset, limits, gap_ms), frame, champion, contents)
    try:
        candidate = fit_candidate(
            data,
            champion,
            name,
            preset,
            limits,
            device=device,
            stopped=stopped,
            ranks=ranks,
            contents=contents,
        )
        if stopped():
            return None
        decision, metrics, evaluation = judge(data, candidate, champion, device)
    except CheckpointError as error:
        return outcome(None, f"the candidate: {error}", "not_finite")
    if not decision.publish:
        return outcome(None, decision.reason, decision.refusal)
    candidate.metrics.update(metrics)
    candidate.training["gate"] = decision.reason
    if decision.segments:
        candidate.training["segments"] = {
            name: {key: round(value, 4) for key, value in asdict(one).items()}
            for name, one in decision.segments.items()
        }
    candidate.training["left_out"] = left_out.rate + left_out.share
    candidate.training["forget_count"] = forget_count
    if restarted:
        candidate.training["restarted"] = restarted
    if log_state is not None:
        candidate.training["event_log"] = log_state._asdict()
    refitted = refit_checked(
        data,
        candidate,
        evaluation,
        preset,
        limits,
        device=device,
        stopped=stopped,
        contents=contents,
    )
    if stopped():
        return None
    published, judged = (candidate, None) if refitted is None else (refitted, candidate)
    related = related_lists(data, published.vocabulary, published.model)
    version = registry.publish(replace(published, related=related), judged=judged, promote=promote)
    waits = not promote and _waits(registry, version)
    return replace(outcome(version, decision.reason), waits=waits)


def _waits(registry: Registry, version: str) -> bool:
    pointer = registry.pointer()
    return pointer is not None and pointer.waiting == version


def last_trained_on(registry: Registry) -> tuple[str, LogState] | None:
    """The version published last, and the state of the event log that it was trained on.

    None if there is none, or if it was published otherwise. Raises Unavailable.
    """
    if not (versions := registry.versions()):
        return None
    try:
        return versions[-1], LogState(**registry.manifest(versions[-1]).training["event_log"])
    except (CheckpointError, KeyError, TypeError):
        return None


def fit_with_rank_zero(
    ranks: ProcessGroup, preset: Preset, limits: FitLimits, *, gap_ms: int, device: torch.device
) -> None:
    """Take part in the fits of rank 0 until it calls `send_end`."""
    while (work := ranks.receive_log(_recipe(preset, limits, gap_ms))) is not None:
        frame, champion, contents = work
        fit_candidate(
            click_log(frame, gap_ms, stable=True),
            champion,
            None,
            preset,
            limits,
            device=device,
            ranks=ranks,
            contents=contents,
        )


def _recipe(preset: Preset, limits: FitLimits, gap_ms: int) -> str:
    """A text of everything that must be equal on all ranks for the same fit of the same log."""
    return repr((preset, limits, gap_ms))


def learnable_contents(contents: Contents, data: ClickLog, max_cold_items: int) -> Contents:
    """What is known about the items of a log, and about others that lists may hold without a click.

    contents: in order of age; of these others the newest `max_cold_items` stay. With 0 of them
    nothing is learned of any content.
    """
    if not max_cold_items:
        return NO_CONTENTS
    clicked = set(data.item_ids)
    cold = [i for i, c in contents.items() if i not in clicked and c.available and c.is_known]
    kept = clicked.union(cold[-max_cold_items:])
    return {i: content for i, content in contents.items() if i in kept}


def nothing_to_learn(data: ClickLog) -> str | None:
    """Why no model can be fitted on a log, else None. Not an error: more clicks may come."""
    if len(data.ids_in(Split.TRAIN)) < 2:
        return "the log holds fewer than two items: there is nothing to choose between"
    if len(data.cases(Split.TRAIN)) == 0:
        return "no session in the log has two clicks: there is no next click to learn from"
    return None


def current_champion(registry: Registry) -> tuple[str | None, Checkpoint | None]:
    """The served version and its model as it was judged; (None, None) if none is there or loads."""
    try:
        pointer = registry.pointer()
        if pointer is None:
            return None, None
        return pointer.version, registry.load_judged(pointer.version)
    except CheckpointError as error:
        log.error("the champion cannot be loaded, so the fit starts from scratch: %s", error)
        return None, None


def fit_candidate(
    data: ClickLog,
    champion: Checkpoint | None,
    parent: str | None,
    preset: Preset,
    limits: FitLimits,
    *,
    device: torch.device,
    stopped: Callable[[], bool] = lambda: False,
    ranks: ProcessGroup = SINGLE_PROCESS,
    contents: Contents = NO_CONTENTS,
) -> Checkpoint:
    """Fit a model on the training split; from the champion's weights if its shape is the same.

    contents: as from `learnable_contents`; a BST then knows these items without a click, too.
    Items of the champion's without a click in the log are retired: no list has them any more.
    """
    if not isinstance(preset.shape, BSTConfig):
        contents = NO_CONTENTS
    cold = [item_id for item_id, content in contents.items() if content.available]
    known = champion.vocabulary if champion else Vocabulary([])
    kept = known.only({*data.item_ids, *cold})
    vocabulary = kept.extended(data.ids_in(Split.TRAIN)).extended(cold)
    fitted = fit_model(
        data,
        vocabulary,
        preset,
        seed=limits.seed,
        device=device,
        champion=champion,
        max_epochs=limits.max_epochs,
        max_seconds=limits.max_seconds,
        stopped=stopped,
        ranks=ranks,
        contents=contents,
    )
    popularity = data.users_per_item(vocabulary)
    about_cold = {"cold_items": int((popularity == 0).sum())} if contents else {}
    return Checkpoint(
        model=fitted.model,
        vocabulary=vocabulary,
        popularity=popularity,
        preset=preset.name,
        parent=parent,
        metrics={
            "validation_loss": best_epoch(fitted.curve).validation_loss,
            "validation_ndcg": best_epoch(fitted.curve).validation_ndcg,
        },
        training={
            "clicks": len(data.items),
            "users": int(data.users.max(initial=-1)) + 1,
            "items": len(data.item_ids),
            "retired_items": len(known) - len(kept),
            **about_cold,
            "first_click": _iso(data.first_timestamp),
            "last_click": _iso(data.last_timestamp),
            "warm_start": fitted.warm,
            "seed": limits.seed,
            "processes": ranks.world_size,
            "epochs": fitted.curve[-1].epoch,
            "fit_seconds": round(fitted.curve[-1].seconds, 1),
        },
        calibration=fitted.calibration,
    )


def _unusable_reason(checkpoint: Checkpoint, data: ClickLog, device: torch.device) -> str | None:
    """Why a fit must not start from this model: its scores are not finite; None if they are."""
    cases = samples(data, Split.TEST, checkpoint.vocabulary)
    try:
        evaluate_model(
            checkpoint, cases.take(np.arange(len(cases))[-CHAMPION_CHECK_CASES:]), device
        )
    except CheckpointError as error:
        return str(error)
    return None


def judge(
    data: ClickLog, candidate: Checkpoint, champion: Checkpoint | None, device: torch.device
) -> tuple[gate.Decision, dict[str, float], Evaluation]:
    """Rank the test split with candidate, champion and baselines, and decide by the gate.

    The baselines are fitted on all clicks outside the test split. Returns the decision, metrics for
    the manifest, and the candidate's evaluation on `_sampled_cases`.
    """
    chosen = _sampled_cases(len(data.cases(Split.TEST)))

    def cases(vocabulary: Vocabulary) -> Samples:
        return samples(data, Split.TEST, vocabulary).take(chosen)

    def evaluation(checkpoint: Checkpoint) -> Evaluation:
        return evaluate_model(checkpoint, cases(checkpoint.vocabulary), device)

    of_candidate = evaluation(candidate)
    try:
        of_champion = evaluation(champion) if champion else None
    except CheckpointError as error:
        log.error("the candidate is not compared with the champion: %s", error)
        of_champion = None
    known = cases(candidate.vocabulary)
    neighbours = VSkNN()
    neighbours.fit(data, candidate.vocabulary, seed=0)
    baselines = {
        gate.POPULARITY: evaluate_popularity(candidate.popularity, known),
        neighbours.name: evaluate(neighbours.score, candidate.popularity, known),
    }
    assert known.users is not None
    types = data.types_of_cases(Split.TEST)[chosen]
    segments = case_segments(data, data.cases(Split.TEST)[chosen], types)
    decision = gate.decide(of_candidate, of_champion, baselines, known.users, segments=segments)
    metrics = {f"test_{name}": value for name, value in of_candidate.metrics().items()}
    for name, baseline in baselines.items():
        metrics[f"test_{name.lower()}_hr@10"] = baseline.metrics()["hr@10"]
    for name, mask in segments.items():
        if mask.any():
            metrics[f"test_hr@10_of_{name}"] = float(of_candidate.hits(10)[mask].mean())
    return decision, metrics, of_candidate


def refit_checked(
    data: ClickLog,
    judged: Checkpoint,
    evaluation: Evaluation,
    preset: Preset,
    limits: FitLimits,
    *,
    device: torch.device,
    stopped: Callable[[], bool] = lambda: False,
    contents: Contents = NO_CONTENTS,
) -> Checkpoint | None:
    """The refit of a judged model, or None if something is wrong with it; the manifest says what.

    evaluation: of the judged model on `_sampled_cases`. On these test clicks, which the refit has
    learned, its scores must be finite and its HR@10 no lower than that of the judged model.
    """
    began = time.monotonic()
    refitted = refit(
        judged,
        data,
        preset,
        seed=limits.seed,
        device=device,
        max_seconds=limits.max_seconds,
        stopped=stopped,
        contents=contents,
    )
    if stopped():
        return None
    chosen = _sampled_cases(len(data.cases(Split.TEST)))
    part = np.unique(np.linspace(0, len(chosen) - 1, REFIT_CASES).astype(np.int64))
    cases = samples(data, Split.TEST, refitted.vocabulary).take(chosen[part])
    before = float(evaluation.hits(10)[part].mean())
    try:
        after = float(evaluate_model(refitted, cases, device).hits(10).mean())
    except CheckpointError as error:
        reason = str(error)
    else:
        refitted.training["refit"] = {
            "clicks": int((data.split != Split.TRAIN).sum()),
            "items": len(refitted.vocabulary) - len(judged.vocabulary),
            "seconds": round(time.monotonic() - began, 1),
            "hr@10_before": round(before, 4),
            "hr@10_after": round(after, 4),
        }
        if after >= before:
            return refitted
        reason = f"HR@10 on the test clicks, which it knows, fell from {before:.4f} to {after:.4f}"
    log.warning(
        "the model is published as it was judged, because its refit is not usable: %s", reason
    )
    judged.training["not_refitted"] = reason
    return None


def _sampled_cases(cases: int) -> IntArray:
    """Indices of the cases to rank: all, or a random sample of MAX_CASES, in order."""
    if cases <= MAX_CASES:
        return np.arange(cases)
    return np.sort(np.random.default_rng(0).choice(cases, MAX_CASES, replace=False))


def _iso(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).isoformat(timespec="seconds")
