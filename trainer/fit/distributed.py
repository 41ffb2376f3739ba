"""One fit on several processes, as torchrun starts them: same data, each step's batch shared out.

Every process (a *rank*) goes through the same fit with the same random numbers: the same batches in
the same order, the same items to compete with, the same starting weights. Of each batch it computes
its part, and gradients are averaged so that each step is the step that one process would have made,
up to the order in which numbers are added. Different is dropout: each rank draws its own masks.

Rank 0 is the trainer. The others wait until it hands out a log, fit along, and wait again; they
touch neither Kafka nor event log nor registry. If one dies or hangs, the rest end with RankLost.

What ranks send each other is numbers, Arrow and safetensors, nothing that could be code. They trust
each other: keep their ports inside your network.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor, nn

from nextclick.shared.errors import ConfigurationError, RankLost
from nextclick.shared.model import Checkpoint
from nextclick.shared.model import checkpoint as checkpoints
from nextclick.shared.windows import IntArray

TIMEOUT_SECONDS = 300.0
"""In a fit, ranks wait so long for each other."""
_BETWEEN_FITS = timedelta(days=3650)
_NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")
_COLUMNS = ["user_id", "item_id", "timestamp"]
_FILES = (checkpoints.WEIGHTS, checkpoints.VOCABULARY, checkpoints.MANIFEST)
_SEEDS_APART = 1_000_003


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those that fit together."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    """Among those on this machine."""
    local_world: int = 1
    waiting: dist.ProcessGroup | None = None
    """For what may take long: the time between two fits."""

    def part(self, targets: IntArray) -> tuple[slice, float]:
        """Which rows of a batch are ours, and what our mean loss weighs.

        targets: shape [rows], predictions in each row. With the weight, the mean over ranks is the
        mean over the batch. A batch of fewer rows than ranks is everybody's.
        """
        if self.world == 1 or len(targets) < self.world:
            return slice(None), 1.0
        ours = slice(self.rank, None, self.world)
        return ours, float(self.world * targets[ours].sum() / targets.sum())

    def seed(self, seed: int) -> int:
        """Of this rank's dropout."""
        return seed + _SEEDS_APART * self.rank

    def broadcast_weights(self, model: nn.Module) -> None:
        """Give every rank the weights of rank 0: machines may differ in the last bit."""
        if self.world > 1:
            with _raise_rank_lost():
                for value in model.state_dict().values():
                    dist.broadcast(value, 0)

    def average(self, model: nn.Module, halt: bool) -> bool:
        """Average the gradients; returns whether any rank wants to halt after this step."""
        if self.world == 1:
            return halt
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        wish = gradients[0].new_full((1,), float(halt))  # it travels with the gradients
        flat = torch.cat([*(g.reshape(-1) for g in gradients), wish])
        with _raise_rank_lost():
            dist.all_reduce(flat)
        flat /= self.world
        parts = torch.split(flat, [g.numel() for g in gradients] + [1])
        for gradient, mean in zip(gradients, parts, strict=False):
            gradient.copy_(mean.view_as(gradient))
        return bool(flat[-1] > 0)

    def sum(self, *values: float) -> list[float]:
        """Add up numbers over all ranks; all get the same."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        with _raise_rank_lost():
            dist.all_reduce(total)
        return [float(value) for value in total]

    def from_rank_zero(self, value: float) -> float:
        """What rank 0 says."""
        return self.sum(value if self.rank == 0 else 0.0)[0]

    def send_log(self, recipe: str, frame: pd.DataFrame, champion: Checkpoint | None) -> None:
        """Let the others fit along, from rank 0. `recipe` must be what they would do, too."""
        if self.world > 1:
            table = pa.Table.from_pandas(frame[_COLUMNS], preserve_index=False)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
            blobs = [recipe.encode(), sink.getvalue().to_pybytes()]
            if champion is not None:
                files = checkpoints.to_files(champion, "champion", "")
                blobs += [files[name] for name in _FILES]
            self._send(blobs)

    def send_end(self) -> None:
        """Tell the others that there will be no more fits, from rank 0."""
        if self.world > 1:
            self._send([])

    def take(self, recipe: str) -> tuple[pd.DataFrame, Checkpoint | None] | None:
        """Wait for what rank 0 hands out: log and champion; None when it dismisses.

        Raises ConfigurationError if rank 0 has another recipe, RankLost if it is gone.
        """
        blobs = self._receive()
        if not blobs:
            return None
        if blobs[0].decode() != recipe:
            raise ConfigurationError(
                f"rank {self.rank} has other settings than rank 0: all need the same "
                "NEXTCLICK_TRAINER__… and NEXTCLICK_SESSION__…"
            )
        frame: pd.DataFrame = pa.ipc.open_stream(blobs[1]).read_all().to_pandas()
        if len(blobs) == 2:
            return frame, None
        files = dict(zip(_FILES, blobs[2:], strict=True))
        return frame, checkpoints.from_files(files, "champion")

    def _send(self, blobs: Sequence[bytes]) -> None:
        sizes = [len(blobs), *(len(blob) for blob in blobs)]
        self._broadcast(torch.tensor((sizes + [0] * 8)[:8]))
        for blob in blobs:
            self._broadcast(torch.from_numpy(np.frombuffer(blob, np.uint8).copy()))

    def _receive(self) -> list[bytes]:
        head = self._broadcast(torch.zeros(8, dtype=torch.int64)).tolist()
        sizes = head[1 : 1 + head[0]]
        blobs = [self._broadcast(torch.empty(size, dtype=torch.uint8)) for size in sizes]
        return [blob.numpy().tobytes() for blob in blobs]

    def _broadcast(self, tensor: Tensor) -> Tensor:
        with _raise_rank_lost():
            dist.broadcast(tensor, 0, group=self.waiting)
        return tensor


ALONE = ProcessGroup()


@contextlib.contextmanager
def process_group(
    environ: Mapping[str, str] = os.environ, timeout_seconds: float = TIMEOUT_SECONDS
) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun has started with us; without torchrun, be alone.

    Raises ConfigurationError if the environment is half torchrun's, RankLost if the others do not
    come.
    """
    world = int(environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield ALONE
        return
    if missing := [name for name in _NEEDED if name not in environ]:
        raise ConfigurationError(
            f"WORLD_SIZE = {world} and no {', '.join(missing)}: start with torchrun, "
            "or unset WORLD_SIZE"
        )
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _raise_rank_lost():
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
        waiting = dist.new_group(timeout=_BETWEEN_FITS, backend="gloo")
    try:
        yield ProcessGroup(
            int(environ["RANK"]),
            world,
            int(environ.get("LOCAL_RANK", "0")),
            int(environ.get("LOCAL_WORLD_SIZE", "1")),
            waiting,
        )
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _raise_rank_lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of every backend: connection closed, timed out
        reason = str(error).splitlines()[0]
        raise RankLost(
            f"another process of this fit has died or hangs, so this one ends, too ({reason}); "
            "nothing was published; torchrun --max-restarts starts all anew"
        ) from None
