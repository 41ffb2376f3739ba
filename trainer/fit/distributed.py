"""Data-parallel fit on several processes that torchrun starts.

Every process (*rank*) runs the same fit with the same random numbers: the same batches in the same
order, the same negative samples, the same initial weights. It computes its part of each batch, and
gradients are averaged, so that each step equals that of a single process up to rounding. Only
dropout differs: each rank draws its own masks.

Rank 0 is the trainer. The others wait until it sends a log, take part in the fit, and wait again;
they do not use Kafka, event log or registry. If a rank dies or hangs, the others end with RankLost.

Ranks exchange tensors, Arrow and safetensors, which cannot hold code. They do not authenticate each
other: keep their ports inside your network.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor, nn

from nextclick.shared.errors import ConfigurationError, RankLost
from nextclick.shared.item_features import NO_CONTENTS, Contents, ItemContent
from nextclick.shared.model import Checkpoint
from nextclick.shared.model import checkpoint as checkpoints
from nextclick.shared.windows import IntArray

TIMEOUT_SECONDS = 300.0
"""Longest time that ranks wait for each other within a fit."""
_BETWEEN_FITS = timedelta(days=3650)
_NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")
_COLUMNS = ["user_id", "item_id", "timestamp", "weight"]
_FILES = (checkpoints.WEIGHTS, checkpoints.VOCABULARY, checkpoints.MANIFEST)
_SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class ProcessGroup:
    """The ranks of a fit, as seen by this process."""

    rank: int = 0
    world_size: int = 1
    """Number of ranks."""
    local_rank: int = 0
    """Rank among the processes on this machine."""
    local_world_size: int = 1
    """Number of processes on this machine."""
    idle_group: dist.ProcessGroup | None = None
    """A second group without a practical time-out, for waiting between fits."""

    def shard(self, targets: IntArray) -> tuple[slice, float]:
        """The rows of a batch for this rank, and the weight of its mean loss.

        targets: shape [rows], number of predictions in each row. The mean over ranks of the
        weighted losses is the mean over the batch. If there are fewer rows than ranks, each rank
        takes the whole batch.
        """
        if self.world_size == 1 or len(targets) < self.world_size:
            return slice(None), 1.0
        shard = slice(self.rank, None, self.world_size)
        return shard, float(self.world_size * targets[shard].sum() / targets.sum())

    def seed(self, seed: int) -> int:
        """The seed of this rank's dropout."""
        return seed + _SEED_STRIDE * self.rank

    def broadcast_weights(self, model: nn.Module) -> None:
        """Copy the weights of rank 0 to all ranks: initial weights may differ by rounding."""
        if self.world_size > 1:
            with _raise_rank_lost():
                for value in model.state_dict().values():
                    dist.broadcast(value, 0)

    def average(self, model: nn.Module, halt: bool) -> bool:
        """Average the gradients over all ranks; returns whether any rank has set `halt`."""
        if self.world_size == 1:
            return halt
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        halt_flag = gradients[0].new_full(
            (1,), float(halt)
        )  # in the same all_reduce as the gradients
        flat = torch.cat([*(g.reshape(-1) for g in gradients), halt_flag])
        with _raise_rank_lost():
            dist.all_reduce(flat)
        flat /= self.world_size
        parts = torch.split(flat, [g.numel() for g in gradients] + [1])
        for gradient, mean in zip(gradients, parts, strict=False):
            gradient.copy_(mean.view_as(gradient))
        return bool(flat[-1] > 0)

    def sum(self, *values: float) -> list[float]:
        """Sum each value over all ranks."""
        if self.world_size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        with _raise_rank_lost():
            dist.all_reduce(total)
        return [float(value) for value in total]

    def from_rank_zero(self, value: float) -> float:
        """The value of rank 0, on all ranks."""
        return self.sum(value if self.rank == 0 else 0.0)[0]

    def send_log(
        self,
        recipe: str,
        frame: pd.DataFrame,
        champion: Checkpoint | None,
        contents: Contents = NO_CONTENTS,
    ) -> None:
        """On rank 0: send log, champion and contents of items to the other ranks.

        They then take part in the fit. recipe: must be equal on all ranks, see `receive_log`.
        """
        if self.world_size > 1:
            columns = [name for name in _COLUMNS if name in frame]
            table = pa.Table.from_pandas(frame[columns], preserve_index=False)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
            blobs = [recipe.encode(), sink.getvalue().to_pybytes(), _contents_json(contents)]
            if champion is not None:
                files = checkpoints.to_files(champion, "champion", "")
                blobs += [files[name] for name in _FILES]
            self._send(blobs)

    def send_end(self) -> None:
        """On rank 0: tell the other ranks that there are no more fits."""
        if self.world_size > 1:
            self._send([])

    def receive_log(self, recipe: str) -> tuple[pd.DataFrame, Checkpoint | None, Contents] | None:
        """On other ranks: wait for what `send_log` sends; None if there are no more fits.

        Raises ConfigurationError if rank 0 has another recipe, RankLost if it has died.
        """
        blobs = self._receive()
        if not blobs:
            return None
        if blobs[0].decode() != recipe:
            raise ConfigurationError(
                f"the settings of rank {self.rank} differ from those of rank 0: all need the same "
                "NEXTCLICK_TRAINER__… and NEXTCLICK_SESSION__…"
            )
        frame: pd.DataFrame = pa.ipc.open_stream(blobs[1]).read_all().to_pandas()
        contents = _contents_of(blobs[2])
        if len(blobs) == 3:
            return frame, None, contents
        files = dict(zip(_FILES, blobs[3:], strict=True))
        return frame, checkpoints.from_files(files, "champion"), contents

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
            dist.broadcast(tensor, 0, group=self.idle_group)
        return tensor


def _contents_json(contents: Contents) -> bytes:
    return json.dumps({item_id: asdict(content) for item_id, content in contents.items()}).encode()


def _contents_of(content: bytes) -> Contents:
    return {
        item_id: ItemContent(
            **fields | {"categories": tuple(fields["categories"]), "tags": tuple(fields["tags"])}
        )
        for item_id, fields in json.loads(content).items()
    }


SINGLE_PROCESS = ProcessGroup()


@contextlib.contextmanager
def process_group(
    environ: Mapping[str, str] = os.environ, timeout_seconds: float = TIMEOUT_SECONDS
) -> Iterator[ProcessGroup]:
    """Join the other processes that torchrun started; without torchrun, yield SINGLE_PROCESS.

    Raises ConfigurationError if torchrun's environment variables are incomplete, RankLost if the
    other processes do not join.
    """
    world_size = int(environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield SINGLE_PROCESS
        return
    if missing := [name for name in _NEEDED if name not in environ]:
        raise ConfigurationError(
            f"WORLD_SIZE = {world_size}, but {', '.join(missing)} is not set: start with torchrun, "
            "or unset WORLD_SIZE"
        )
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _raise_rank_lost():
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
        idle_group = dist.new_group(timeout=_BETWEEN_FITS, backend="gloo")
    try:
        yield ProcessGroup(
            int(environ["RANK"]),
            world_size,
            int(environ.get("LOCAL_RANK", "0")),
            int(environ.get("LOCAL_WORLD_SIZE", "1")),
            idle_group,
        )
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _raise_rank_lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # all backends raise this: connection closed, timed out
        reason = str(error).splitlines()[0]
        raise RankLost(
            f"another process of this fit has died or hangs, so this one ends, too ({reason}); "
            "nothing was published; torchrun --max-restarts restarts all"
        ) from None
