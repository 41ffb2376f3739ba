"""Kafka's group coordinator, for one group (classic protocol).

Rules of the model, and where they come from:

- A join starts a round, and so do a member that leaves and one that is not heard of for its session
  time-out; the round ends when all members have joined it; the generation goes up then. The leader
  assigns, and the others wait for it (KIP-62, KIP-134 for the delay of the first round).
- Heartbeats: REBALANCE_IN_PROGRESS during a round, ILLEGAL_GENERATION for another generation,
  UNKNOWN_MEMBER_ID for who is no member. A member that has joined a round does not expire in it.
- Static members (KIP-345): who joins under a known name takes the other's place and assignment, in
  a stable group without a round; the other is fenced (FENCED_INSTANCE_ID).
- Offsets (GroupCoordinator.validateOffsetCommit, ClassicGroup): member and generation are checked;
  between the end of a round and the assignment commits are refused with REBALANCE_IN_PROGRESS,
  those of transactions are not. A transaction that names no member and no generation is taken for
  one of an older client, whatever the group (KIP-447; seen on Kafka 4.1); another such commit only
  while the group is empty. That a member commits partitions which it does not own is not checked.
- Offsets of an open transaction count when it commits; who asks for offsets meanwhile is told
  UNSTABLE_OFFSET_COMMIT (KIP-447).
- Cooperative rebalancing (KIP-429): a partition that moves is nobody's for one round. If the static
  member that gives it up is replaced in that moment, it stays nobody's until somebody joins or
  leaves (seen on Kafka 4.1: the new one is given what the old one kept, without a round).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from confluent_kafka import KafkaError

from tests.simulation.network import BROKEN, Reply, Server
from tests.simulation.scheduler import World

EMPTY, PREPARING, COMPLETING, STABLE = "empty", "preparing", "completing", "stable"


class GroupMetadata(NamedTuple):
    """What consumer_group_metadata() gives."""

    member: str
    generation: int
    instance: str


class Joined(NamedTuple):
    """The answer to a join; `error` is 0 if it worked."""

    error: int
    member: str = ""
    generation: int = -1
    members: Mapping[str, Sequence[int]] | None = None
    """What each member owns; for the leader only."""


class Synced(NamedTuple):
    """The answer to a sync."""

    error: int
    partitions: Sequence[int] = ()


class Description(NamedTuple):
    """The answer to a description of the group."""

    stable: bool
    members: Sequence[tuple[str, Sequence[int]]]
    """The instance and the partitions of each; of a dynamic member the instance is empty."""


@dataclass
class _Member:
    name: str
    instance: str
    session_seconds: float
    owned: Sequence[int] = ()
    joining: Reply | None = None
    syncing: Reply | None = None
    assignment: Sequence[int] = ()
    deadline: float = 0.0


@dataclass
class Group:
    """A consumer group and its offsets."""

    world: World
    server: Server
    rebalance_delay: float
    on_committed: Callable[[Mapping[int, int]], None]
    """Hears of offsets before they are there."""
    state: str = EMPTY
    generation: int = 0
    offsets: dict[int, int] = field(default_factory=dict)
    _pending: dict[int, dict[int, int]] = field(default_factory=dict)
    _members: dict[str, _Member] = field(default_factory=dict)
    _static: dict[str, str] = field(default_factory=dict)
    _leader: str = ""
    _named: int = 0
    _waits_until: float = 0.0

    def __post_init__(self) -> None:
        self.server.when_down.append(self._disconnect)
        self.server.when_back.append(self._forgive)

    def join(
        self,
        member: str,
        instance: str,
        owned: Sequence[int],
        session_seconds: float,
        reply: Reply,
    ) -> None:
        """JoinGroup; answered when the round is over."""
        if member and (error := self._check(member, instance)):
            reply(Joined(error))
            return
        if not member:
            self._named += 1
            member = f"{instance or 'member'}-{self._named}"
            old = self._members.pop(self._static.get(instance, ""), None) if instance else None
            ours = self._members[member] = _Member(member, instance, session_seconds)
            if instance:
                self._static[instance] = member
            self._renew(ours)
            self.world.at(ours.deadline, lambda: self._expire(ours))
            if old is not None:
                self._dismiss(old, int(KafkaError.FENCED_INSTANCE_ID))
                ours.assignment = old.assignment
                if self._leader == old.name:
                    self._leader = member
                if self.state == STABLE:
                    reply(Joined(0, member, self.generation))
                    return
        ours = self._members[member]
        ours.owned, ours.joining = owned, reply
        self._renew(ours)
        if self.state != PREPARING:
            self._begin_round()
        self._end_round()

    def sync(
        self,
        member: str,
        instance: str,
        generation: int,
        assignment: Mapping[str, Sequence[int]] | None,
        reply: Reply,
    ) -> None:
        """SyncGroup; answered when the leader has assigned."""
        if error := self._check(member, instance, generation):
            reply(Synced(error))
            return
        ours = self._members[member]
        self._renew(ours)
        if self.state == PREPARING:
            reply(Synced(int(KafkaError.REBALANCE_IN_PROGRESS)))
        elif self.state == STABLE:
            reply(Synced(0, ours.assignment))
        else:
            ours.syncing = reply
            if assignment is not None and member == self._leader:
                self.state = STABLE
                for one in self._members.values():
                    one.assignment = assignment.get(one.name, ())
                    if one.syncing is not None:
                        one.syncing(Synced(0, one.assignment))
                        one.syncing = None
                    self._renew(one)
                parts = {name: list(parts) for name, parts in assignment.items()}
                self.world.say("group", f"generation {self.generation}: {parts}")

    def heartbeat(self, member: str, instance: str, generation: int) -> int:
        """Heartbeat: 0 or an error."""
        if error := self._check(member, instance, generation):
            return error
        self._renew(self._members[member])
        return int(KafkaError.REBALANCE_IN_PROGRESS) if self.state == PREPARING else 0

    def leave(self, member: str) -> int:
        """LeaveGroup: 0 or an error."""
        ours = self._members.get(member)
        if ours is None:
            return int(KafkaError.UNKNOWN_MEMBER_ID)
        self._remove(ours, "leaves")
        return 0

    def commit(self, by: GroupMetadata, offsets: Mapping[int, int]) -> int:
        """OffsetCommit: 0 or an error."""
        if by.generation < 0 and self.state == EMPTY:
            pass
        elif error := (
            self._check(by.member, by.instance, by.generation)
            if by.generation >= 0 or by.member or by.instance
            else int(KafkaError.UNKNOWN_MEMBER_ID)
        ):
            return error
        elif self.state == COMPLETING:
            return int(KafkaError.REBALANCE_IN_PROGRESS)
        if by.member in self._members:
            self._renew(self._members[by.member])
        self._store(offsets)
        return 0

    def commit_in_transaction(
        self, by: GroupMetadata, producer: int, offsets: Mapping[int, int]
    ) -> int:
        """TxnOffsetCommit: 0 or an error."""
        if (by.generation >= 0 or by.member or by.instance) and (
            error := self._check(by.member, by.instance, by.generation)
        ):
            return error
        self._pending.setdefault(producer, {}).update(offsets)
        return 0

    def end_transaction(self, producer: int, committed: bool) -> None:
        """A marker has come."""
        offsets = self._pending.pop(producer, None)
        if offsets and committed:
            self._store(offsets)

    def forget_offsets(self) -> None:
        """The topic has been deleted."""
        self.offsets.clear()

    def fetch_offset(self, partition: int) -> int | None:
        """OffsetFetch: -1 if there is none, None if it is unstable."""
        if any(partition in offsets for offsets in self._pending.values()):
            return None
        return self.offsets.get(partition, -1)

    def describe(self) -> Description:
        """DescribeGroups."""
        members = [(one.instance, one.assignment) for one in self._members.values()]
        return Description(self.state == STABLE, members)

    def is_without_owner(self, partitions: int) -> bool:
        """Whether the group rests, and some partition is nobody's."""
        owned = {p for one in self._members.values() for p in one.assignment}
        return self.state == STABLE and len(owned) < partitions

    def _store(self, offsets: Mapping[int, int]) -> None:
        self.on_committed(offsets)
        self.offsets.update(offsets)
        self.world.say("group", f"committed {dict(offsets)}")

    def _check(self, member: str, instance: str, generation: int | None = None) -> int:
        if instance and self._static.get(instance, member) != member:
            return int(KafkaError.FENCED_INSTANCE_ID)
        if member not in self._members:
            return int(KafkaError.UNKNOWN_MEMBER_ID)
        if generation is not None and generation != self.generation:
            return int(KafkaError.ILLEGAL_GENERATION)
        return 0

    @staticmethod
    def _dismiss(member: _Member, error: int) -> None:
        """It waits in vain."""
        if member.joining is not None:
            member.joining(Joined(error))
        if member.syncing is not None:
            member.syncing(Synced(error))
        member.joining = member.syncing = None

    def _begin_round(self) -> None:
        if self.state == EMPTY:
            self._waits_until = self.world.now + self.rebalance_delay
            self.world.at(self._waits_until, self._end_round)
        self.state = PREPARING
        for one in self._members.values():
            if one.syncing is not None:
                one.syncing(Synced(int(KafkaError.REBALANCE_IN_PROGRESS)))
                one.syncing = None

    def _end_round(self) -> None:
        if self.state != PREPARING or self.world.now < self._waits_until:
            return
        if any(one.joining is None for one in self._members.values()):
            return
        self.generation += 1
        if not self._members:
            self.state = EMPTY
            return
        self.state = COMPLETING
        if self._leader not in self._members:
            self._leader = next(iter(self._members))
        owned = {name: one.owned for name, one in self._members.items()}
        for name, one in self._members.items():
            assert one.joining is not None
            seen = owned if name == self._leader else None
            one.joining(Joined(0, name, self.generation, seen))
            one.joining = None
            self._renew(one)

    def _renew(self, member: _Member) -> None:
        member.deadline = self.world.now + member.session_seconds

    def _disconnect(self) -> None:
        for one in self._members.values():
            for waiting in (one.joining, one.syncing):
                if waiting is not None:
                    waiting(BROKEN)
            one.joining = one.syncing = None

    def _forgive(self) -> None:
        """After a restart the coordinator begins to wait anew."""
        for one in self._members.values():
            self._renew(one)

    def _expire(self, member: _Member) -> None:
        if self._members.get(member.name) is not member:
            return
        if member.joining is not None or self.server.down:
            self._renew(member)
        if member.deadline > self.world.now:
            self.world.at(member.deadline, lambda: self._expire(member))
        else:
            self._remove(member, "expires")

    def _remove(self, member: _Member, why: str) -> None:
        self.world.say("group", f"{member.name} {why}")
        self._dismiss(member, int(KafkaError.UNKNOWN_MEMBER_ID))
        del self._members[member.name]
        if member.instance:
            del self._static[member.instance]
        if self.state in (STABLE, COMPLETING):
            self._begin_round()
        self._end_round()


def cooperative_sticky(
    owned: Mapping[str, Sequence[int]], partitions: int
) -> dict[str, Sequence[int]]:
    """What librdkafka's assignor of that name does in one round.

    Everybody keeps what he owns, up to his share; what is nobody's goes to whoever has least; what
    must move is nobody's until the next round.
    """
    names = sorted(owned, key=lambda name: (-len(owned[name]), name))
    share, rest = divmod(partitions, len(names))
    assignment: dict[str, list[int]] = {}
    taken: set[int] = set()
    for position, name in enumerate(names):
        most = share + (position < rest)
        kept = [p for p in owned[name] if p not in taken and p < partitions][:most]
        assignment[name] = kept
        taken.update(kept)
    moving = {p for parts in owned.values() for p in parts} - taken
    for partition in range(partitions):
        if partition not in taken and partition not in moving:
            least = min(names, key=lambda name: len(assignment[name]))
            assignment[least].append(partition)
    return {name: sorted(parts) for name, parts in assignment.items()}


def range_assignor(owned: Mapping[str, Sequence[int]], partitions: int) -> dict[str, Sequence[int]]:
    """What librdkafka's assignor of that name does: ranges, in the order of the members' names."""
    share, rest = divmod(partitions, len(owned))
    assignment: dict[str, Sequence[int]] = {}
    first = 0
    for position, name in enumerate(sorted(owned)):
        count = share + (position < rest)
        assignment[name] = list(range(first, first + count))
        first += count
    return assignment
