"""Machines: registered once by themselves, then changed by compare-and-set, so that no writer undoes another's change unseen.

A machine is known by its account and its id: the same id in another account is simply another machine. Whether it is connected
is a matter of `presence`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from hapta.db.database import Database, ReadTx, WriteTx
from hapta.kit.clock import Clock
from hapta.relay.errors import MachineNotFound
from hapta.relay.machines import store
from hapta.relay.machines.errors import MachineLimit
from hapta.relay.machines.models import Compared, Machine, NewMachine
from hapta.relay.machines.store import Part
from hapta.relay.models import USERS, Event, Update, ephemeral, machine_audience
from hapta.relay.ports import Teller
from hapta.relay.updates.heads import Heads
from hapta.relay.updates.since import Change, bury
from hapta.settings.relay import RelaySettings

Forget = Callable[[WriteTx, str, str], Awaitable[object]]
"""`(tx, account_id, machine_id)`: removes what belongs to a machine, in the transaction that deletes it."""

MAX_LISTED_BYTES = 16 * 1024 * 1024
"""Of the metadata and states in one list; real ones have some thousand each."""
_EXPOSED: dict[Part, str] = {"metadata": "metadata", "daemon_state": "daemonState"}


class Machines:
    """The use cases of machines.

    Args:
        parts: what goes with a machine that is deleted: its access keys.
    """

    def __init__(
        self,
        db: Database,
        heads: Heads,
        updates: Teller,
        clock: Clock,
        settings: RelaySettings,
        parts: Sequence[Forget] = (),
    ) -> None:
        self._db = db
        self._heads = heads
        self._updates = updates
        self._clock = clock
        self._settings = settings
        self._parts = parts

    async def register(self, account_id: str, new: NewMachine) -> Machine:
        """The machine of that id: as it is, or made now.

        Raises:
            MachineLimit: the account has too many.
        """
        known = await self._db.read(lambda tx: store.find(tx, account_id, new.id), snapshot=False)
        if known is not None:
            return known
        machine, updates = await self._db.write(lambda tx: self._register(tx, account_id, new))
        await self._updates.announce(updates)
        return machine

    async def _register(self, tx: WriteTx, account_id: str, new: NewMachine) -> tuple[Machine, Sequence[Update]]:
        head = await self._heads.locked(tx, account_id)
        known = await store.find(tx, account_id, new.id)
        if known is not None:
            return known, []
        if await store.count(tx, account_id) >= self._settings.max_machines_per_account:
            raise MachineLimit
        # Two updates, as clients know it: apps hear of the machine by the first, and the machine itself by the second.
        now_ms = self._clock.now_ms()
        machine = Machine(
            account_id=account_id,
            id=new.id,
            metadata=new.metadata,
            metadata_version=1,
            daemon_state=new.daemon_state,
            daemon_state_version=0 if new.daemon_state is None else 1,
            data_encryption_key=new.data_encryption_key,
            seq=0,
            active=0,
            last_active_at=now_ms,
            changed_seq=head.seq + 2,
            created_seq=head.seq + 1,
            created_at=now_ms,
            updated_at=now_ms,
        )
        await store.insert(tx, machine)
        head.add(machine.as_new(), USERS)
        head.add(_changed(machine, "metadata"), machine_audience(machine.id))
        await head.save(tx)
        return machine, head.updates

    async def get(self, account_id: str, machine_id: str) -> Machine:
        """One machine.

        Raises:
            MachineNotFound: the account has no such machine.
        """
        machine = await self._db.read(lambda tx: store.find(tx, account_id, machine_id), snapshot=False)
        if machine is None:
            raise MachineNotFound
        return machine

    async def list_latest(
        self, account_id: str, *, limit: int | None = None, active_only: bool = False
    ) -> list[Machine]:
        """The account's machines, by when they were last heard of.

        Args:
            limit: None: as many as an account may have, as far as they fit into `MAX_LISTED_BYTES`.
        """
        most = self._settings.max_machines_per_account if limit is None else limit
        return await self._db.read(
            lambda tx: store.list_latest(tx, account_id, most, MAX_LISTED_BYTES, active_only=active_only),
            snapshot=False,
        )

    async def compare_and_set(
        self, account_id: str, machine_id: str, part: Part, value: str, expected: int
    ) -> Compared:
        """Writes metadata or the daemon's state over the version that the writer knows; the state also makes it active.

        Raises:
            MachineNotFound: the account has no such machine.
        """
        compared, updates = await self._db.write(
            lambda tx: self._compare_and_set(tx, account_id, machine_id, part, value, expected)
        )
        await self._updates.announce(updates)
        return compared

    async def _compare_and_set(
        self, tx: WriteTx, account_id: str, machine_id: str, part: Part, value: str, expected: int
    ) -> tuple[Compared, Sequence[Update]]:
        head = await self._heads.locked(tx, account_id)
        machine = await store.compare_and_set(
            tx, account_id, machine_id, part, value, expected, head.seq + 1, self._clock.now_ms()
        )
        if machine is None:
            current = await store.find(tx, account_id, machine_id)
            if current is None:
                raise MachineNotFound
            return Compared(False, _version(current, part), getattr(current, part)), []
        body = _changed(machine, part)
        if part == "daemon_state":
            body |= {"active": True, "activeAt": machine.last_active_at}
        head.add(body, machine_audience(machine_id))
        await head.save(tx)
        return Compared(True, _version(machine, part), value), head.updates

    async def set_status(
        self,
        account_id: str,
        machine_id: str,
        *,
        active: bool | None = None,
        metadata: str | None = None,
        daemon_state: str | None = None,
    ) -> Machine:
        """Writes what is given over whatever is there; the last writer wins (contract relay, section 5).

        Raises:
            MachineNotFound: the account has no such machine.
        """

        async def body(tx: WriteTx) -> tuple[Machine, Sequence[Update]]:
            head = await self._heads.locked(tx, account_id)
            machine = await store.overwrite(
                tx,
                account_id,
                machine_id,
                active=active,
                metadata=metadata,
                daemon_state=daemon_state,
                seq=head.seq + 1,
                now_ms=self._clock.now_ms(),
            )
            if machine is None:
                raise MachineNotFound
            told: dict[str, object] = {
                "t": "update-machine",
                "machineId": machine.id,
                "active": bool(machine.active),
                "activeAt": machine.last_active_at,
            }
            if metadata is not None:
                told |= _changed(machine, "metadata")
            if daemon_state is not None:
                told |= _changed(machine, "daemon_state")
            head.add(told, machine_audience(machine.id))
            await head.save(tx)
            return machine, head.updates

        machine, updates = await self._db.write(body)
        await self._updates.announce(updates)
        if active is not None:
            await self._updates.tell(activity(account_id, machine_id, machine.last_active_at, active=active))
        return machine

    async def delete(self, account_id: str, machine_id: str) -> None:
        """Removes a machine with its access keys; its sessions stay. Its daemon hears of it and ends (contract relay, section 5).

        Raises:
            MachineNotFound: the account has no such machine.
        """
        now_ms = self._clock.now_ms()

        async def body(tx: WriteTx) -> Sequence[Update]:
            head = await self._heads.locked(tx, account_id)
            if not await store.delete(tx, account_id, machine_id):
                raise MachineNotFound
            for forget in self._parts:
                await forget(tx, account_id, machine_id)
            update = head.add({"t": "delete-machine", "machineId": machine_id}, machine_audience(machine_id))
            await bury(tx, account_id, update.seq, "machine", machine_id, now_ms)
            await head.save(tx)
            return head.updates

        await self._updates.announce(await self._db.write(body))
        gone: dict[str, object] = {
            "type": "machine-disconnected",
            "machineId": machine_id,
            "id": machine_id,
            "reason": "disconnected_by_user",
            "timestamp": now_ms,
        }
        await self._updates.tell(ephemeral(account_id, gone, machine_audience(machine_id)))

    # -- for other nouns, in their transactions ----------------------------------------------------------------------------

    async def owned(self, tx: ReadTx, account_id: str, machine_id: str) -> bool:
        """Whether the account has such a machine."""
        return await store.owned(tx, account_id, machine_id)

    async def changed_since(self, tx: ReadTx, account_id: str, seq: int, limit: int) -> list[Change]:
        """Machines that were changed after an update, for clients that were away."""
        machines = await store.changed_since(tx, account_id, seq, limit)
        return [
            Change(
                machine.changed_seq,
                machine.updated_at,
                machine.as_changed(),
                machine.as_new(),
                machine.created_seq,
            )
            for machine in machines
        ]

    async def mark_alive(self, tx: WriteTx, beats: Sequence[tuple[str, str, int]]) -> None:
        """Notes signs of life: account, machine, and when (Unix ms), sorted by account and machine."""
        await store.mark_alive(tx, beats)

    async def set_active(self, tx: WriteTx, machines: Sequence[tuple[str, str]], at_ms: int, *, active: bool) -> None:
        """Notes whether machines (account and id, sorted) are connected now; those that are not registered are left out."""
        await store.set_active(tx, machines, at_ms, active=active)

    async def silent(self, tx: WriteTx, before_ms: int, limit: int) -> list[tuple[str, str, int]]:
        """Active machines that gave no sign of life since `before_ms`, locked: account, id, and the last one's instant."""
        return await store.silent(tx, before_ms, limit)


def activity(account_id: str, machine_id: str, at_ms: int, *, active: bool) -> Event:
    """The ephemeral `machine-activity`, under the names that both families of clients read."""
    body: dict[str, object] = {
        "type": "machine-activity",
        "id": machine_id,
        "machineId": machine_id,
        "active": active,
        "activeAt": at_ms,
    }
    return ephemeral(account_id, body, USERS)


def _changed(machine: Machine, part: Part) -> dict[str, object]:
    """Body of an `update-machine` that tells one part."""
    return {
        "t": "update-machine",
        "machineId": machine.id,
        _EXPOSED[part]: {"value": getattr(machine, part), "version": _version(machine, part)},
    }


def _version(machine: Machine, part: Part) -> int:
    return machine.metadata_version if part == "metadata" else machine.daemon_state_version


async def purge(tx: WriteTx, account_id: str) -> None:
    """Deletes all of an account."""
    await store.purge(tx, account_id)
