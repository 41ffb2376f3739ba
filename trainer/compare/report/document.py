"""The report as data: what `--json` writes and what terminal and page are made from."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Part):
    """A number with what is known about its noise."""

    mean: float
    """Over the seeds."""
    standard_error: float | None
    """Over the test cases (over the queries, for times); None where there is none."""
    sd: float | None
    """Standard deviation over the seeds; None with one seed."""
    seeds: list[float]
    """The value of each seed."""


class Difference(_Part):
    """A method minus another on the same cases."""

    other: str
    difference: float
    low: float
    high: float
    """Bootstrap 95 % interval over test sessions."""


class Bucket(_Part):
    """Cases that are alike in something."""

    label: str
    cases: int
    hr20: float
    hr20_error: float | None
    mrr20: float
    mrr20_error: float | None


class CurvePoint(_Part):
    """One epoch of a training curve; None where an epoch has no such number."""

    epoch: int
    train_loss: float | None
    validation_loss: float | None
    validation_ndcg: float | None
    seconds: float


class MethodReport(_Part):
    """Everything about one method."""

    name: str
    failure: str | None = None
    """Why there are no numbers, if so; then the rest is empty."""
    metrics: dict[str, Estimate] = {}
    """hr@5, hr@10, hr@20, mrr@20, ndcg@10, auc, coverage, fit_seconds, ms_single, ms_batched."""
    versus: dict[str, Difference] = {}
    """Of hr@20 and mrr@20 to the best other method, the ceiling aside."""
    hr_at: list[float] = []
    """HR@1, HR@2, … HR@50."""
    by_history_length: list[Bucket] = []
    by_popularity: list[Bucket] = []
    curve: list[CurvePoint] = []
    """Of the first seed."""


class ProblemReport(_Part):
    """One kind of flaw in the input."""

    file: str
    what: str
    consequence: str
    count: int
    first: list[int]
    """Lines or rows of the first few."""
    text: str
    """All of it in one line."""


class Report(_Part):
    """One comparison."""

    format: int = 1
    created_at: str
    data: str
    facts: dict[str, int | float | str]
    problems: list[ProblemReport]
    seeds: list[int]
    methods: list[MethodReport]
    """Best HR@20 first (then MRR@20); those without numbers last."""
    environment: dict[str, str]
    """Versions and machine."""
