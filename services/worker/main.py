"""Entry point of the worker: makes and connects its components."""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from functools import lru_cache

import torch

from nextclick.services.worker import health
from nextclick.services.worker.arms import ArmScorer
from nextclick.services.worker.at_least_once import AtLeastOnce
from nextclick.services.worker.decide import AnswerTopic, dead_letter_bytes
from nextclick.services.worker.exactly_once import ExactlyOnce
from nextclick.services.worker.guarantee import Guarantee
from nextclick.services.worker.guard import Guard
from nextclick.services.worker.loop import Worker
from nextclick.services.worker.traces import TraceBatch, forward
from nextclick.shared.event_types import label_weights_of, weight_of, weights_of
from nextclick.shared.experiments import Experiment
from nextclick.shared.items import ItemStates
from nextclick.shared.kafka import (
    ClickConsumer,
    ItemCatalogue,
    Publisher,
    TransactionalPublisher,
    ensure_topics,
    max_message_bytes,
)
from nextclick.shared.kafka.schema_registry import answer_encoder, framed_reader
from nextclick.shared.messages import EncodeRecommendation
from nextclick.shared.model import Checkpoint, Scorer, select_device
from nextclick.shared.profiles import profile_id
from nextclick.shared.redis import session_store
from nextclick.shared.registry import ModelSlot, Registry
from nextclick.shared.runtime.anomalies import click_rules
from nextclick.shared.runtime.garbage_collector import freeze_garbage_collector
from nextclick.shared.runtime.heartbeat import HEARTBEAT
from nextclick.shared.runtime.retry import RetryUntilAvailable
from nextclick.shared.runtime.settings import ClickSettings, Settings
from nextclick.shared.schemas import Click, Recommendation

log = logging.getLogger(__name__)


def build(
    settings: Settings,
    slot: ModelSlot,
    items: Callable[[], ItemStates],
    stop: threading.Event,
    on_step: Callable[[str], None] = lambda step: None,
    trace: TraceBatch = forward,
) -> Worker:
    """Make a worker and connect it to Redis and Kafka; its first poll joins the group.

    items: what the items topic says now. on_step: called with the name of each step, for tests.
    trace: makes the traces. Raises ConfigurationError or Unavailable if Redis, Kafka or the schema
    registry is not usable.
    """
    kafka, worker_settings = settings.kafka, settings.worker
    sessions = session_store(settings)
    sessions.ping()
    sessions.warn_of_evictions()
    ensure_topics(kafka, kafka.topics)
    in_experiment = [ExperimentEncoder(settings, topic) for topic in kafka.answer_topics]
    topics = [answer_topic(settings, encoder) for encoder in in_experiment]

    def accept(experiment: Experiment) -> None:
        for encoder in in_experiment:
            encoder.connect()

    slot.accept = accept
    consumer = ClickConsumer(
        kafka, kafka.clicks_topic, worker_settings.group_id, instance_id=worker_settings.instance_id
    )
    judged = _judged_types(settings.clicks)
    guarantee: Guarantee
    if worker_settings.guarantee == "exactly_once":
        # With a stable id, the next worker aborts this one's open transaction at once.
        name = f"{worker_settings.group_id}-{worker_settings.instance_id or uuid.uuid4().hex}"
        transactions = TransactionalPublisher(kafka, name, kafka.clicks_topic)
        transactions.connect()
        guarantee = ExactlyOnce(consumer, transactions, on_step=on_step)
    else:
        publisher = Publisher(kafka)
        publisher.connect()
        guarantee = AtLeastOnce(consumer, publisher, on_step=on_step)
    return Worker(
        consumer=consumer,
        sessions=sessions,
        slot=slot,
        guarantee=guarantee,
        topics=topics,
        dlq_topic=kafka.dlq_topic,
        max_dead_letter_bytes=dead_letter_bytes(max_message_bytes(kafka, kafka.dlq_topic)),
        rules=click_rules(
            settings.clicks,
            framed_reader(settings.schema_registry, Click, RetryUntilAvailable(stop, log)),
        ),
        max_batch=worker_settings.max_batch,
        stop=stop,
        arms=ArmScorer(
            Guard(worker_settings.guard_clicks, slot.roll_back, judged=judged),
            slot.refuse_arms,
            judged,
        ),
        items=items,
        trace=trace,
        on_step=on_step,
    )


def answer_topic(settings: Settings, in_experiment: ExperimentEncoder) -> AnswerTopic:
    """A topic of recommendations as the settings say; see `answer_encoder` for errors."""
    topic = in_experiment.topic
    name = settings.kafka.profile_topics.get(topic)
    encode = answer_encoder(settings.schema_registry, topic, settings.answer_schema(topic))
    if name is None:
        return AnswerTopic(topic, encode, encode_in_experiment=in_experiment)
    profile = settings.profiles[name]
    identity = profile_id(name, profile)
    log.info("lists on %s are under the profile %s: %s", topic, identity, profile.content)
    return AnswerTopic(topic, encode, profile, identity, in_experiment)


class ExperimentEncoder:
    """Encodes answers of experiments, whose schema is looked up when the first one begins."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self.topic = topic
        self._settings = settings
        self._encode: EncodeRecommendation | None = None

    def connect(self) -> None:
        """Look the schema up; raises as `answer_encoder` does."""
        if self._encode is None:
            schema = self._settings.answer_schema(self.topic, experiment=True)
            self._encode = answer_encoder(self._settings.schema_registry, self.topic, schema)

    def __call__(self, answer: Recommendation) -> bytes:
        """The value of a message; see `messages.EncodeRecommendation`."""
        assert self._encode is not None, "connect() comes before an experiment begins"
        return self._encode(answer)


def _judged_types(clicks: ClickSettings) -> Callable[[str], bool]:
    """Whether clicks of a type are predicted, so that they judge the list before them."""
    labels = label_weights_of(weights_of(clicks.event_weights), clicks.label_weights)

    @lru_cache(1000)  # producers may send any number of types
    def judged(event_type: str) -> bool:
        return weight_of(event_type, labels) > 0

    return judged


def run(
    settings: Settings,
    stop: threading.Event,
    scorer: type[Scorer] = Scorer,
    on_step: Callable[[str], None] = lambda step: None,
) -> None:
    """Serve until `stop` is set.

    scorer: replaced by benchmarks; on_step: called with the name of each step, for crash tests.
    Raises ConfigurationError or Unavailable if Kafka, Redis or the device is not usable at the
    start; later outages are retried.
    """
    torch.set_num_threads(settings.worker.torch_threads)
    device = select_device(settings.device)
    items = ItemCatalogue(settings.kafka, keep_attributes=bool(settings.kafka.profile_topics))

    def make_scorer(checkpoint: Checkpoint) -> Scorer:
        made = scorer(checkpoint, device, settings.worker.top_k)
        made.prepare([], items.states.attributes)  # here, so that no click waits for it
        return made

    slot = ModelSlot(
        Registry(settings.registry.url),
        make_scorer,
        settings.registry.poll_seconds,
        deltas=settings.registry.deltas,
        arms=True,
    )
    with _tracing(settings) as trace:
        worker = build(settings, slot, lambda: items.states, stop, on_step, trace)
        try:
            with health.health_server(settings, worker, items.check), items:
                slot.start()
                while not stop.is_set() and not (items.wait(0.2) and slot.wait(0.2)):
                    HEARTBEAT.beat()
                if stop.is_set():
                    return
                freeze_garbage_collector()
                log.info("answering clicks from %s on %s", settings.kafka.clicks_topic, device)
                worker.run()
        finally:
            worker.close()
            slot.stop()


@contextlib.contextmanager
def _tracing(settings: Settings) -> Iterator[TraceBatch]:
    """What makes the traces of clicks; see NEXTCLICK_TRACING."""
    if not settings.tracing:
        yield forward
        return
    from nextclick.services.worker.otel_traces import ClickTracer
    from nextclick.shared.runtime.tracing import open_tracer

    with open_tracer("nextclick-worker") as tracer:
        yield ClickTracer(tracer, settings.worker.group_id, settings.kafka.recommendations_topic)
