"""One fit on two processes: the same model, and nothing half done when one of them is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import pytest
import torch

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.kafka import ensure_topics
from nextclick.shared.model import Checkpoint
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from nextclick.trainer.fit.distributed import SINGLE_PROCESS, ProcessGroup, process_group
from tests.conftest import Launch
from tests.faults.ranks import LOST, NOISY, RECIPE, at_step, start
from tests.faults.tampering import die
from tests.integration.test_trainer import world_clicks
from tests.integration.traffic import Shop
from tests.waiting import until


def run(folder: Path, world: int, **options: object) -> Checkpoint:
    """Retrain on so many processes; the published model as it was judged: the refit is rank 0's."""
    for process in start(folder, world, **options):  # type: ignore[arg-type]
        process.join(60)
        assert process.exitcode == 0, (folder / "0").read_text()
    registry = Registry(str(folder / "registry"))
    pointer = registry.pointer()
    assert pointer is not None
    return registry.load_judged(pointer.version)


def codes(processes: list[ForkServerProcess]) -> list[int | None]:
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def distance(one: Checkpoint, other: Checkpoint) -> float:
    """Of the most different weight. A key's bias adds the same to all that a softmax compares: no
    output depends on it, its gradient is rounding, and Adam makes steps of that all the same."""
    a, b = one.model.state_dict(), other.model.state_dict()
    names = [name for name in a if not name.endswith("key.bias")]
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in names)


@pytest.mark.long
def test_two_processes_make_the_steps_of_one(tmp_path: Path) -> None:
    """Without dropout only the order of additions differs; the second fit starts from the first."""
    short = replace(RECIPE, epochs=1)
    one, two = (run(tmp_path / str(world), world, recipe=short, fits=2) for world in (1, 2))
    assert distance(one, two) < 1e-5
    for name, value in one.metrics.items():
        assert two.metrics[name] == pytest.approx(value, rel=1e-4), name
    assert [one.training["processes"], two.training["processes"]] == [1, 2]
    assert one.training["warm_start"] is two.training["warm_start"] is True


@pytest.mark.long
def test_with_dropout_the_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    noisy = replace(NOISY, epochs=1)
    one, again = (run(tmp_path / name, 2, recipe=noisy) for name in ("one", "again"))
    assert distance(one, again) == 0.0


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.long), 1])
def test_when_one_dies_the_other_ends_and_nothing_is_published(tmp_path: Path, victim: int) -> None:
    processes = start(tmp_path, 2, tamper={victim: partial(at_step, 20, die)})
    expected = [2, 2]
    expected[victim] = -signal.SIGKILL
    assert codes(processes) == expected
    said = (tmp_path / str(1 - victim)).read_text()
    assert LOST in said
    assert len(said.splitlines()) == 1
    assert Registry(str(tmp_path / "registry")).versions() == []


def stand_still() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.long
def test_when_one_hangs_the_other_does_not_wait_for_ever(tmp_path: Path) -> None:
    processes = start(tmp_path, 2, timeout=2.0, tamper={1: partial(at_step, 20, stand_still)})
    processes[0].join(90)
    assert processes[0].exitcode == 2
    assert LOST in (tmp_path / "0").read_text()
    processes[1].kill()
    processes[1].join()
    assert Registry(str(tmp_path / "registry")).versions() == []


def test_other_settings_on_another_process_are_refused(tmp_path: Path) -> None:
    processes = start(tmp_path, 2, recipes={1: NOISY})
    assert codes(processes) == [2, 2]
    assert "NEXTCLICK_TRAINER__" in (tmp_path / "1").read_text()
    assert LOST in (tmp_path / "0").read_text()


def test_half_of_torchruns_environment_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match="MASTER_ADDR, MASTER_PORT is not set: start with torchrun"
    ):
        process_group({"WORLD_SIZE": "2", "RANK": "0"}).__enter__()
    with process_group({}) as ranks:
        assert ranks is SINGLE_PROCESS


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_parts_of_a_batch_are_the_batch(world: int) -> None:
    rng = np.random.default_rng(0)
    losses, targets = rng.random(7), rng.integers(1, 9, 7)
    right = float((losses * targets).sum() / targets.sum())
    for batch in (slice(None), slice(2), slice(1)):
        mean = 0.0
        whole = float((losses[batch] * targets[batch]).sum() / targets[batch].sum())
        for rank in range(world):
            ours, weight = ProcessGroup(rank, world).shard(targets[batch])
            t = targets[batch][ours]
            mean += weight * float((losses[batch][ours] * t).sum() / t.sum()) / world
        assert mean == pytest.approx(whole)
    assert right == pytest.approx(float(np.average(losses, weights=targets)))
    assert torch.equal(torch.tensor(ProcessGroup(0, 1).sum(1.0, 2.0)), torch.tensor([1.0, 2.0]))


def torchrun(environ: dict[str, str], folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with open(folder / "torchrun.log", "ab") as log:
        return subprocess.Popen(
            [*command, "-m", "nextclick", "trainer", *arguments],
            env={**environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=log,
            stderr=log,
        )


@pytest.mark.long
def test_under_torchrun_a_model_is_as_good(
    kafka: KafkaSettings, environ: dict[str, str], launch: Launch, tmp_path: Path
) -> None:
    """The default recipe but for its length, on clicks in which there is something to learn."""
    short = {f"{PREFIX}TRAINER__MAX_EPOCHS": "6"}
    ensure_topics(kafka, [kafka.clicks_topic])
    clicks = world_clicks(12_000, seed=1)
    Shop(kafka).send(clicks)
    several = {
        **environ,
        **short,
        f"{PREFIX}TRAINER__EVENT_LOG": str(tmp_path / "log2"),
        f"{PREFIX}REGISTRY__URL": str(tmp_path / "registry2"),
        f"{PREFIX}TRAINER__GROUP_ID": f"{environ[f'{PREFIX}TRAINER__GROUP_ID']}-2",
    }
    process = torchrun(several, tmp_path, "--once")
    assert process.wait(300) == 0, (tmp_path / "torchrun.log").read_text()
    assert launch("trainer", "--once", **short).wait(300) == 0
    models = []
    for name in ("registry", "registry2"):
        registry = Registry(str(tmp_path / name))
        (version,) = registry.versions()
        models.append(registry.manifest(version))
    alone, two = models
    assert two.training["processes"] == 2
    assert two.training["clicks"] == alone.training["clicks"] == len(clicks)
    cases = alone.metrics["test_cases"]
    noise = 3 * (2 * 0.25 / cases) ** 0.5
    assert two.metrics["test_hr@10"] == pytest.approx(alone.metrics["test_hr@10"], abs=noise)


@pytest.mark.long
def test_under_torchrun_sigterm_ends_all(
    kafka: KafkaSettings, environ: dict[str, str], tmp_path: Path
) -> None:
    ensure_topics(kafka, [kafka.clicks_topic])
    process = torchrun(environ, tmp_path)
    log = tmp_path / "torchrun.log"
    until(lambda: "taking part in fits" in log.read_text(), "the second process waits", 60)
    until(lambda: "assigned partitions" in log.read_text(), "the first one collects", 60)
    process.terminate()
    process.wait(25)  # torchrun itself says that a signal ended it; it kills after 30 s
    until(lambda: "revoked partitions" in log.read_text(), "rank 0 left the group")
    assert LOST not in log.read_text()
