"""The schema of the report: `--json` writes it, and terminal and page show it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Part):
    """A number with its noise."""

    mean: float
    """Mean over the seeds."""
    standard_error: float | None
    """Over the test cases (for times: over the queries); None if not available."""
    sd: float | None
    """Standard deviation over the seeds; None with one seed."""
    seeds: list[float]
    """The value of each seed."""


class Difference(_Part):
    """Paired difference of a method to another one on the same cases."""

    other: str
    difference: float
    low: float
    high: float
    """Bootstrap 95 % interval over test sessions."""


class Bucket(_Part):
    """Metrics of a group of cases, with their standard errors over cases."""

    label: str
    cases: int
    hr20: float
    hr20_error: float | None
    mrr20: float
    mrr20_error: float | None


class CurvePoint(_Part):
    """One epoch of a training curve; missing numbers are None."""

    epoch: int
    train_loss: float | None
    validation_loss: float | None
    validation_ndcg: float | None
    seconds: float


class MethodReport(_Part):
    """The results of one method."""

    name: str
    failure: str | None = None
    """Why the method could not be run; all other fields are then empty."""
    metrics: dict[str, Estimate] = {}
    """hr@5, hr@10, hr@20, mrr@20, ndcg@10, auc, coverage, fit_seconds, ms_single, ms_batched; of
    methods that give probabilities ece and ece_noise, and ece_before if they are calibrated."""
    versus: dict[str, Difference] = {}
    """hr@20 and mrr@20 → difference to the best other method, not counting the ceiling."""
    hr_at: list[float] = []
    """HR@1, HR@2, … HR@50."""
    by_history_length: list[Bucket] = []
    by_popularity: list[Bucket] = []
    by_event_type: list[Bucket] = []
    """Of the targets, if they are of several types: how often the next purchase was listed."""
    curve: list[CurvePoint] = []
    """Training curve of the first seed."""


class ProblemReport(_Part):
    """One kind of flaw in the input."""

    file: str
    what: str
    consequence: str
    count: int
    first: list[int]
    """Lines or rows of the first few."""
    text: str
    """The problem as one line of text."""


class Report(_Part):
    """One comparison."""

    format: int = 1
    created_at: str
    data: str
    facts: dict[str, int | float | str]
    problems: list[ProblemReport]
    seeds: list[int]
    methods: list[MethodReport]
    """Sorted by HR@20, then MRR@20, best first; failed methods last."""
    environment: dict[str, str]
    """Versions and machine, see `environment`."""
