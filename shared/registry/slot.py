"""The served model: a background thread follows the registry's pointer and swaps models.

The thread loads, validates and warms up a new version, while the serving thread goes on with the
old one, and then replaces the single reference `model`. The worker reads that once per batch, so no
click is dropped or scored by a half-loaded model. If anything fails, the old model stays.

Deltas of the served version are taken in the same way; the version stays the same.

While a live experiment runs, `model` is the version of arm a, whatever else is published, without
deltas; and `arms` holds that of arm b, too. If one of the two cannot serve there are no arms here:
all users get `model`, and no list of this process counts for the experiment.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from nextclick.shared.errors import CheckpointError, NextclickError, Unavailable
from nextclick.shared.experiments import Experiment
from nextclick.shared.model import Checkpoint, Scorer
from nextclick.shared.model.delta import applied
from nextclick.shared.model.related import RelatedLists
from nextclick.shared.registry.registry import Pointer, Registry, published_at
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.rate_limit import RateLimit
from nextclick.shared.version_names import name_of

log = logging.getLogger(__name__)

_WARM_UP_BATCHES = (1, 32, 256)


@dataclass(frozen=True)
class ServedModel:
    """A scorer and the name of the version it came from."""

    version: str
    scorer: Scorer
    on_trial: bool = False
    """Whether it was newly published, so that the guard may roll it back. False for a version that
    a person promoted or rolled back to."""
    base: Checkpoint | None = None
    """The version without a delta."""
    delta: int | None = None
    """The number of the delta that the scorer holds."""
    related: RelatedLists | None = None
    """Those of the version, if it has them and they were asked for."""

    @property
    def name(self) -> str:
        """What answers name: whoever has it can compute the list again."""
        return self.version if self.delta is None else name_of(self.version, self.delta)


@dataclass(frozen=True)
class Arms:
    """An experiment that this process takes part in; `ModelSlot.model` serves arm a."""

    experiment: Experiment
    b: ServedModel


class _CannotServe(Exception):
    """A version cannot serve; the text says why, `stage` where it failed."""

    def __init__(self, stage: str, text: str) -> None:
        super().__init__(text)
        self.stage = stage


class ModelSlot:
    """Holds the served model and keeps it up to date."""

    def __init__(
        self,
        registry: Registry,
        make_scorer: Callable[[Checkpoint], Scorer],
        poll_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        deltas: bool = False,
        related: bool = False,
        arms: bool = False,
    ) -> None:
        """deltas: take the deltas of the served version, too. related: read related items, too.

        arms: take part in experiments.
        """
        self.accept: Callable[[Experiment], None] = lambda experiment: None
        """Raises a NextclickError if this process cannot take part in an experiment, and why."""
        self._deltas = deltas
        self._related = related
        self._with_arms = arms
        self._arms: Arms | None = None
        self._refused_experiment: str | None = None
        """The name of an experiment that this process takes no part in."""
        self._arms_problem: str | None = None
        self._refused_delta: str | None = None
        self._registry = registry
        self._make_scorer = make_scorer
        self._poll_seconds = poll_seconds
        self._model: ServedModel | None = None
        self._rejected: str | None = None
        self._rolled_back: tuple[str, str] | None = None
        """A version and why; the registry's pointer is yet to be moved."""
        self._swapping = threading.Lock()
        self._warnings = RateLimit(clock)
        self._crash: BaseException | None = None
        self._stop = threading.Event()
        self._first_loaded = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="model-slot", daemon=True)

    @property
    def model(self) -> ServedModel | None:
        """The model for the next batch; None until the first one is loaded.

        Re-raises the error of the background thread, if a bug crashed it.
        """
        if self._crash is not None:
            raise self._crash
        return self._model

    @property
    def arms(self) -> Arms | None:
        """The experiment that the next batch is part of; None if there is none."""
        return self._arms

    def check_arms(self) -> None:
        """Raise Unavailable if an experiment runs and this process takes no part in it."""
        if self._arms_problem is not None:
            raise Unavailable(self._arms_problem)

    def refuse_arms(self, experiment: Experiment, why: str) -> None:
        """Take no part in an experiment from now on. Called by the serving thread."""
        with self._swapping:
            self._refused_experiment = experiment.name
            self._set_arms(None, _problem(experiment, why))
        log.error("%s", self._arms_problem, extra={"model_version": experiment.b})

    def start(self) -> None:
        """Start the thread that follows the pointer."""
        self._thread.start()

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the first model; returns whether it is loaded."""
        return self._first_loaded.wait(timeout)

    def stop(self) -> None:
        """Stop the thread and wait for it."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def load(self, version: str) -> ServedModel:
        """Load a version beside the served one. Raises CheckpointError, Unavailable."""
        return ServedModel(version, self._make_scorer(self._registry.load(version)))

    def roll_back(self, bad: ServedModel, good: ServedModel, reason: str) -> None:
        """Serve `good` instead of `bad` at once; the next poll moves the registry's pointer.

        `bad` is not loaded again unless it is promoted again. Called by the serving thread.
        """
        with self._swapping:
            self._rejected = bad.version
            self._rolled_back = bad.version, reason
            served = self._model
            if served is not None and served.version == bad.version:  # else a newer one, it stays
                self._model = good
                _set_metrics(good.version)

    def check(self) -> None:
        """Read the pointer once, and swap if it names another version that can serve."""
        try:
            pointer = self._registry.pointer()
            if pointer is None:
                self._warn(
                    f"the registry {self._registry.url} has no model yet; "
                    "`nextclick trainer --once` publishes the first"
                )
                return
            if self._rolled_back is not None:
                pointer = self._move_pointer(pointer, *self._rolled_back)
            self._follow(pointer)
            self._take_arms(pointer.running)
        except Unavailable as error:
            self._warn(str(error))
        except CheckpointError as error:  # the pointer itself is invalid
            self._warn(str(error))

    def _follow(self, pointer: Pointer) -> None:
        """Serve what the pointer names, or arm a of the experiment that runs."""
        served, running = self._model, pointer.running
        version = pointer.version if running is None else running.a
        if version == self._rejected:
            return
        self._rejected = None  # if it is promoted again, it is tried again
        if served is None or served.version != version:
            before = served.version if served else None
            forward = before in pointer.history and version not in pointer.history
            self._swap(version, on_trial=forward and running is None)
            self._warnings.reset()
        elif running is not None and served.delta is not None:
            self._swap(version, on_trial=served.on_trial)
        elif running is None and self._deltas:
            self._take_delta(served)

    def _take_arms(self, experiment: Experiment | None) -> None:
        """Hold the model of arm b while an experiment runs, if arm a serves."""
        if experiment is None or not self._with_arms:
            self._set_arms(None)
            return
        if experiment.name == self._refused_experiment:
            return
        served, arms = self._model, self._arms
        if served is None or served.name != experiment.a:
            self._set_arms(None, _problem(experiment, f"version {experiment.a} does not serve"))
            return
        if arms is not None and arms.experiment == experiment:
            return
        try:
            self.accept(experiment)
            if experiment.b == experiment.a:
                b = served
            else:
                b = self._prepared(experiment.b, on_trial=False)
        except Unavailable as error:
            self._set_arms(None, _problem(experiment, str(error)))
            raise
        except (_CannotServe, NextclickError) as error:
            self.refuse_arms(experiment, str(error))
            return
        with self._swapping:
            if self._model is served:  # the guard has not rolled it back meanwhile
                self._set_arms(Arms(experiment, b))
                log.info(
                    "experiment %s: %.4g %% of the users get model %s, the others %s",
                    experiment.name,
                    100 * experiment.share,
                    experiment.b,
                    experiment.a,
                    extra={"model_version": experiment.b},
                )

    def _set_arms(self, arms: Arms | None, problem: str | None = None) -> None:
        self._arms, self._arms_problem = arms, problem
        metrics.EXPERIMENT_RUNNING.set(arms is not None)

    def _take_delta(self, served: ServedModel) -> None:
        """Serve the newest delta of the served version, unless it serves already."""
        number = self._registry.newest_delta(served.version)
        if number is None or served.base is None or number == served.delta:
            return
        if (name := name_of(served.version, number)) == self._refused_delta:
            return
        try:
            delta = self._registry.load_delta(served.version, number)
            scorer = self._make_scorer(applied(delta, served.base))
        except (CheckpointError, RuntimeError) as error:  # RuntimeError: torch, out of memory, …
            metrics.DELTAS.labels("refused").inc()
            self._refused_delta = name
            log.error("the delta %s cannot serve: %s", name, error, extra={"model_version": name})
            return
        with self._swapping:
            if self._model is not served:  # the guard has rolled it back meanwhile
                return
            self._model = replace(served, scorer=scorer, delta=number)
        metrics.DELTAS.labels("taken").inc()
        metrics.DELTA_MADE.set(number)

    def _move_pointer(self, pointer: Pointer, bad: str, reason: str) -> Pointer:
        """Roll the registry back if its pointer still names the version that was rolled back."""
        try:
            if bad == pointer.version:
                pointer = self._registry.rollback(only_if=bad, reason=reason)
                log.info(
                    "the registry now names model %s, not %s",
                    pointer.version,
                    bad,
                    extra={"model_version": pointer.version, "previous_version": bad},
                )
        except Unavailable as error:
            self._warn(f"the registry still names model {bad}: {error}")
            return pointer
        except CheckpointError as error:
            log.error(
                "the registry still names model %s: %s", bad, error, extra={"model_version": bad}
            )
        self._rolled_back = None
        return pointer

    def _swap(self, version: str, *, on_trial: bool) -> None:
        served = self._model.version if self._model else None
        arms = self._arms
        try:
            if arms is not None and arms.b.version == version:  # it was promoted
                model = replace(arms.b, on_trial=on_trial)
            else:
                model = self._prepared(version, on_trial)
        except _CannotServe as error:
            self._rejected = version  # a version's files never change: a retry would fail, too
            kept = f"keeping {served}" if served else "there is no older one"
            fields = {"model_version": version, "previous_version": served, "reason": error.stage}
            log.error("model %s cannot serve, %s: %s", version, kept, error, extra=fields)
            return
        with self._swapping:
            self._model = model
            _set_metrics(version)
        self._first_loaded.set()
        metrics.SWAPS.inc()
        fields = {"model_version": version, "previous_version": served}
        log.info("serving model %s", version, extra=fields)

    def _prepared(self, version: str, on_trial: bool) -> ServedModel:
        """Load a version, try one batch, and warm it up. Raises _CannotServe and Unavailable."""
        try:
            stage = "load"
            checkpoint = self._registry.load(version)
            related = self._registry.related_lists(version) if self._related else None
            stage = "smoke"
            scorer = self._make_scorer(checkpoint)
            stage = "warm_up"
            for size in _WARM_UP_BATCHES:
                scorer.recommend([[scorer.vocabulary.item_ids[0]]] * size)
        except (CheckpointError, RuntimeError) as error:  # RuntimeError: torch, out of memory, …
            metrics.SWAP_FAILURES.labels(stage).inc()
            raise _CannotServe(stage, str(error)) from None
        base = checkpoint if self._deltas else None
        return ServedModel(version, scorer, on_trial, base, related=related)

    def _warn(self, text: str) -> None:
        if self._warnings.allow():
            log.warning("%s", text)

    def _watch(self) -> None:
        try:
            while not self._stop.is_set():
                self.check()
                self._stop.wait(self._poll_seconds)
        except BaseException as error:  # a bug: `model` re-raises it in the serving thread
            self._crash = error
            self._first_loaded.set()


def _problem(experiment: Experiment, why: str) -> str:
    return f"no part in the experiment {experiment.name}, all users get arm a: {why}"


def _set_metrics(version: str) -> None:
    now = time.time()
    published = published_at(version)
    since = now if published is None else published.timestamp()
    metrics.MODEL.info({"version": version})
    metrics.MODEL_LOADED.set(now)
    metrics.MODEL_AGE.set_function(lambda: time.time() - since)
