"""On a CUDA device lists, fits, swaps and deltas are those of the CPU, and memory comes back.

`make gpu`. Everything here is compared with the CPU of the same machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from nextclick.bench.agreement import lists_agree
from nextclick.bench.models import random_checkpoint
from nextclick.interface.recommender import Recommender
from nextclick.shared.items import NOTHING_KNOWN, Attributes
from nextclick.shared.model import Checkpoint, Scorer, SourceBSTConfig, select_device
from nextclick.shared.model.calibration import UNCALIBRATED
from nextclick.shared.model.checkpoint import from_files, to_files
from nextclick.shared.model.delta import Delta, applied
from nextclick.shared.profiles import Boosts, Exploration, Pin, Profile
from nextclick.shared.registry import ModelSlot, Registry
from nextclick.shared.schemas import ScoredItem
from nextclick.shared.windows import HISTORY_LENGTH
from nextclick.trainer.data import Split, click_log, samples
from nextclick.trainer.evaluate import evaluate_model
from nextclick.trainer.fit.presets import Preset, preset
from nextclick.trainer.retrain import FitLimits, fit_candidate, retrain
from tests.poisoning import honest
from tests.unit.builders import CPU, checkpoint

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

TOP_K = 10
QUICK = replace(preset("default"), steps=300)
SOURCE = replace(preset("source"), shape=SourceBSTConfig(items=1, feedforward=64), epochs=2)


@pytest.fixture
def cuda() -> Iterator[torch.device]:
    """The device, with nothing of another test in its memory."""
    torch.cuda.empty_cache()
    yield torch.device("cuda")
    torch.cuda.set_per_process_memory_fraction(1.0)


def copied(of: Checkpoint) -> Checkpoint:
    """The same checkpoint from its files: `Scorer` moves a checkpoint's model to its device."""
    return from_files(to_files(of, "v", "2026-01-01T00:00:00+00:00"), "v")


def on_both(of: Checkpoint, cuda: torch.device) -> tuple[Scorer, Scorer]:
    """Exact scorers of a checkpoint: of the CPU, and of the device."""
    exact = len(of.vocabulary) + 1
    return (
        Scorer(copied(of), CPU, TOP_K, shortlist_from=exact),
        Scorer(copied(of), cuda, TOP_K, shortlist_from=exact),
    )


def some_histories(of: Checkpoint, count: int, seed: int = 0) -> list[list[str]]:
    """Of 0 to HISTORY_LENGTH items, some of them unknown."""
    rng = np.random.default_rng(seed)
    ids = [*of.vocabulary.item_ids, "unknown"]
    lengths = rng.integers(0, HISTORY_LENGTH + 1, count)
    return [[ids[i] for i in rng.integers(0, len(ids), n)] for n in lengths]


def lists(scorer: Scorer, histories: list[list[str]], batch: int) -> list[list[ScoredItem]]:
    return [
        ranking.items
        for start in range(0, len(histories), batch)
        for ranking in scorer.recommend(histories[start : start + batch])
    ]


def differing(some: list[list[ScoredItem]], others: list[list[ScoredItem]]) -> int:
    """How many lists are not the same up to rounding."""
    return sum(not lists_agree(a, b) for a, b in zip(some, others, strict=True))


def fitted(clicks: int, device: torch.device, recipe: Preset) -> Checkpoint:
    log = click_log(honest(clicks), gap_ms=0)
    return fit_candidate(log, None, None, recipe, FitLimits(seed=1), device=device)


def hit_rate(of: Checkpoint, device: torch.device) -> float:
    """HR@10 on unseen clicks."""
    unseen = click_log(honest(10_000, seed=2), 0, 0.0, 1.0)
    cases = samples(unseen, Split.TEST, of.vocabulary)
    return float(evaluate_model(copied(of), cases, device).hits(TOP_K).mean())


def test_it_is_what_auto_takes() -> None:
    assert select_device("auto").type == "cuda"
    assert select_device("cuda:0").index == 0


@pytest.mark.parametrize("items", [50, 10_000, 100_000])
def test_its_lists_are_the_cpus_in_batches_of_any_size(items: int, cuda: torch.device) -> None:
    of = random_checkpoint(items)
    cpu, device = on_both(of, cuda)
    histories = some_histories(of, 256)
    expected = lists(cpu, histories, 256)
    for batch in (1, 7, 256):
        assert differing(lists(device, histories, batch), expected) == 0, batch


def test_no_list_of_it_breaks_a_constraint(cuda: torch.device) -> None:
    of = random_checkpoint(1_000)
    histories = some_histories(of, 64)
    ids = of.vocabulary.item_ids
    withheld = frozenset(ids[::3])
    known = {
        item_id: Attributes((f"category-{n % 7}",), price=float(n)) for n, item_id in enumerate(ids)
    }
    attributes = NOTHING_KNOWN.changed(known)
    profile = Profile(
        excluded_categories=["category-2"],
        max_price=900.0,
        max_per_category=3,
        boosts=Boosts(categories={"category-4": 5.0}),
        pins=[Pin(position=2, item_id=ids[4])],
    )
    of_both = []
    for scorer in on_both(of, cuda):
        constraints = scorer.prepare([profile], attributes)(15, True)
        rankings = scorer.recommend(histories, [constraints] * len(histories), withheld)
        of_both.append([ranking.items for ranking in rankings])
    assert differing(*of_both) == 0
    for history, listed in zip(histories, of_both[1], strict=True):
        found = [item.item_id for item in listed]
        categories = [known[item_id].categories[0] for item_id in found]
        assert len(found) == 15
        assert not {*found} & (withheld | {*history})
        assert max(categories.count(name) for name in categories) <= 3
        assert "category-2" not in categories
        assert max(known[item_id].price or 0.0 for item_id in found) <= 900.0


def test_it_draws_what_the_cpu_draws(cuda: torch.device) -> None:
    of = random_checkpoint(10_000)
    histories = some_histories(of, 64)
    explores = Exploration(slots=2, new_slots=1, candidates=200, new_below=100)
    of_both = []
    for scorer in on_both(of, cuda):
        constraint = scorer.prepare([Profile(exploration=explores)], NOTHING_KNOWN)(10, False)
        of_both.append(scorer.recommend(histories, [constraint] * 64, seeds=range(64)))
    other = 0
    for one, two in zip(*of_both, strict=True):
        assert one.drawn is not None
        assert two.drawn is not None
        assert len(one.items) == len(two.items) == 10
        other += [item.item_id for item in one.items] != [item.item_id for item in two.items]
        if not other:
            assert two.drawn.propensities == pytest.approx(one.drawn.propensities, rel=1e-3)
    assert other <= 1, "a draw differs only where rounding decides"


def test_threads_share_a_scorer_of_it(cuda: torch.device) -> None:
    of = random_checkpoint(10_000)
    _, device = on_both(of, cuda)
    histories = some_histories(of, 128)
    expected = lists(device, histories, 128)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(partial(lists, device, histories), [1 + n % 5 for n in range(16)]):
            assert differing(found, expected) == 0


@pytest.mark.parametrize("recipe", [QUICK, SOURCE], ids=["default", "source"])
def test_a_fit_on_it_is_as_good_and_serves_on_a_cpu(recipe: Preset, cuda: torch.device) -> None:
    on_cpu, on_cuda = (fitted(20_000, device, recipe) for device in (CPU, cuda))
    assert abs(hit_rate(on_cuda, CPU) - hit_rate(on_cpu, CPU)) < 0.02
    assert hit_rate(on_cuda, cuda) == pytest.approx(hit_rate(on_cuda, CPU), abs=0.001)
    assert on_cuda.calibration != UNCALIBRATED
    cpu, device = on_both(on_cuda, cuda)
    histories = some_histories(on_cuda, 256)
    assert differing(lists(device, histories, 256), lists(cpu, histories, 256)) == 0


def test_a_fit_goes_on_from_a_champion_of_the_other_kind(cuda: torch.device) -> None:
    log = click_log(honest(20_000), gap_ms=0)
    for first, second in ((CPU, cuda), (cuda, CPU)):
        champion = copied(fitted(20_000, first, QUICK))
        warm = fit_candidate(
            log, champion, "v", QUICK, FitLimits(seed=2, max_epochs=1), device=second
        )
        assert warm.training["warm_start"]
        assert hit_rate(warm, CPU) > hit_rate(champion, CPU) - 0.02


def test_a_retraining_on_it_is_served_by_it(tmp_path: Path, cuda: torch.device) -> None:
    registry = Registry(str(tmp_path))
    outcome = retrain(honest(20_000), registry, QUICK, FitLimits(1), gap_ms=0, device=cuda)
    assert outcome is not None
    assert outcome.version is not None, outcome.reason
    slot = ModelSlot(registry, lambda of: Scorer(of, cuda, TOP_K), 0.1)
    slot.check()
    assert slot.model is not None
    assert slot.model.version == outcome.version
    on_cpu = Scorer(registry.load(outcome.version), CPU, TOP_K)
    histories = some_histories(registry.load(outcome.version), 64)
    assert differing(lists(slot.model.scorer, histories, 64), lists(on_cpu, histories, 64)) == 0
    # The next one compares itself with it and starts from it.
    again = retrain(honest(20_000, 2), registry, QUICK, FitLimits(2), gap_ms=0, device=cuda)
    assert again is not None
    assert again.version or again.refusal in ("same", "worse"), again.reason


def test_a_delta_on_it_gives_the_cpus_lists(cuda: torch.device) -> None:
    rows, shares = torch.zeros(2, 5, dtype=torch.int32), torch.zeros(2, 5)
    rows[0, 0], shares[0, 0] = 31, 1.0
    rows[1, 0], shares[1, 0] = 1, 0.8
    delta = Delta("v", "ab", 7, ["new"], np.array([1, 31]), rows, shares, 0.9, np.array([40, 3]))
    histories = [["1"], ["new"], ["2", "1"], [], ["3", "4", "5"]]
    found = []
    for device in (CPU, cuda):
        base = checkpoint()
        base.model.to(device)
        found.append(lists(Scorer(applied(delta, base), device, TOP_K), histories, 5))
    assert found[0][0][0].item_id == "new"
    assert differing(*found) == 0


def test_swaps_leave_nothing_in_its_memory(tmp_path: Path, cuda: torch.device) -> None:
    registry = Registry(str(tmp_path))
    versions = [registry.publish(random_checkpoint(50_000, seed)) for seed in (1, 2)]
    slot = ModelSlot(registry, lambda of: Scorer(of, cuda, TOP_K), 0.1)
    used = []
    for turn in range(12):
        registry.promote(versions[turn % 2])
        slot.check()
        assert slot.model is not None
        assert slot.model.version == versions[turn % 2]
        slot.model.scorer.recommend([["1"]] * 256)
        used.append(torch.cuda.memory_allocated())
    assert max(used[4:]) <= 1.02 * max(used[:4]), used


def test_a_model_that_its_memory_cannot_hold_changes_nothing(
    tmp_path: Path, cuda: torch.device
) -> None:
    registry = Registry(str(tmp_path))
    small = registry.publish(random_checkpoint(1_000))
    slot = ModelSlot(registry, lambda of: Scorer(of, cuda, TOP_K), 0.1)
    slot.check()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 40e6) / total)
    large = registry.publish(random_checkpoint(200_000))  # 51 MB of item vectors
    slot.check()
    assert slot.model is not None
    assert slot.model.version == small
    assert [len(r.items) for r in slot.model.scorer.recommend([["1"], []])] == [TOP_K, TOP_K]

    torch.cuda.set_per_process_memory_fraction(1.0)
    registry.promote(small)  # refused until it is promoted again
    slot.check()
    registry.promote(large)
    slot.check()
    assert slot.model.version == large


def test_the_library_answers_as_on_a_cpu(cuda: torch.device) -> None:
    of = fitted(20_000, cuda, QUICK)
    cpu, device = (Recommender(copied(of), device=name) for name in ("cpu", "auto"))
    items = of.vocabulary.item_ids
    for exclude, without, k in (([], False, 10), (items[:5], False, 10), ([], True, 20)):
        of_both = [
            one.recommend(items[:3], k, exclude=exclude, without_history=without)
            for one in (device, cpu)
        ]
        assert lists_agree(of_both[0], of_both[1])
    similar = [[s.item_id for s in one.similar(items[0])] for one in (device, cpu)]
    assert similar[0] == similar[1]
    why = [one.explain(items[:3]) for one in (device, cpu)]
    assert np.allclose(why[0].contributions, why[1].contributions, atol=1e-3)
