"""All sockets of this worker, and the way of updates to them: each hears every update of its scope once, in order, while it lives.

An account with sockets here has a room, which knows the number told last. The next number is told at once; a later one waits a
moment for those before it, and what does not come is read from the log. A number that nobody announced (a worker was killed
between its commit and its word) is found by looking at the heads from time to time. A gap that the log no longer holds ends the
account's sockets: their clients read everything anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import msgspec
import structlog

from hapta.bus.bus import Bus
from hapta.db.database import Database, ReadTx
from hapta.kit.background import attempted, ended
from hapta.kit.clock import Clock
from hapta.kit.errors import Unavailable
from hapta.relay.models import Audience, Event, Update
from hapta.relay.updates import heads, log
from hapta.relay.updates.frames import Frame, event_frame, update_frame
from hapta.relay.updates.log import Rebuild
from hapta.relay.updates.room import Connection, ConnectionEnded, Counts, Room, TooManySockets

CHANNEL = "relay.updates"
WAIT_SECONDS = 0.05
"""So long a number waits for the ones before it, which another task is about to announce."""
TICK_SECONDS = 5.0
MAX_WAITING = 200
"""Numbers of one account that wait for an earlier one; what is past them is read from the log."""
HEADS_CHUNK = 500
GOING_AWAY = 1012
REVOKED = 4001

_log = structlog.stdlib.get_logger("hapta.relay.hub")


Listener = Callable[[Connection], None]


class _Packet(msgspec.Struct, frozen=True, array_like=True):
    updates: Sequence[Update]
    events: Sequence[Event]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Packet).decode


class Hub:
    """The sockets of this worker.

    Args:
        worker_id: unique among all workers.
        rebuild: makes bodies that the log keeps no copy of, by the kind that begins their `ref`.
        max_sockets: of one account in this worker.
    """

    def __init__(
        self,
        bus: Bus,
        db: Database,
        clock: Clock,
        worker_id: str,
        rebuild: dict[str, Rebuild],
        *,
        max_sockets: int,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self.clock = clock
        self.worker_id = worker_id
        self.counts = Counts()
        self.closing = False
        self._bus = bus
        self._db = db
        self.rebuild = rebuild
        self._max_sockets = max_sockets
        self._wait_seconds = wait_seconds
        self._own = worker_id.encode() + b"\n"
        self._rooms: dict[str, Room] = {}
        self._unopened: list[Room] = []
        self._gaps: dict[str, Room] = {}
        self._outgoing: list[Update | Event] = []
        self._joined: list[Listener] = []
        self._left: list[Listener] = []
        self._unsubscribe: Callable[[], None] | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._opener: asyncio.Task[None] | None = None
        self._filler: asyncio.Task[None] | None = None
        self._looker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to hear the other workers and to keep time."""
        self._unsubscribe = await self._bus.subscribe(CHANNEL, self._receive, self.look)
        self._ticker = asyncio.create_task(self._keep_time(), name="relay's sockets")

    def stop_waiting(self) -> None:
        """Ends every socket; new ones are refused. The first step of an orderly stop."""
        self.closing = True
        for connection in self.all():
            connection.end(GOING_AWAY, "server is stopping")

    async def close(self) -> None:
        """Ends every socket and all work."""
        self.stop_waiting()
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        await ended(self._ticker, self._opener, self._filler, self._looker)
        for room in self._rooms.values():
            if room.timer is not None:
                room.timer.cancel()

    # -- who is here -----------------------------------------------------------------------------------------------------

    async def join(self, connection: Connection) -> None:
        """Registers a socket. From when this returns, it hears all that is committed.

        Raises:
            TooManySockets: the account has as many as it may.
            Unavailable: its last number could not be read, or the server stops.
        """
        room = self._rooms.get(connection.account_id)
        if room is None:
            room = self._rooms[connection.account_id] = Room(connection.account_id)
        if len(room.connections) + room.joining >= self._max_sockets:
            raise TooManySockets
        room.joining += 1
        try:
            while room.told < 0:
                if self.closing or not await self._opened(room):
                    raise Unavailable
            if self.closing:
                raise Unavailable
            room.add(connection)
        finally:
            room.joining -= 1
            self._forget_empty(room)
        self._tell_listeners(self._joined, connection)

    def is_full(self, account_id: str) -> bool:
        """Whether an account has as many sockets here as it may."""
        room = self._rooms.get(account_id)
        return room is not None and len(room.connections) + room.joining >= self._max_sockets

    def leave(self, connection: Connection) -> None:
        """The socket is gone. Does nothing for one that is not here."""
        room = self._rooms.get(connection.account_id)
        if room is None or not room.remove(connection):
            return
        self._forget_empty(room)
        self._tell_listeners(self._left, connection)

    def on_joined(self, listener: Listener) -> None:
        """`listener` is called for each socket that has joined; it must not wait."""
        self._joined.append(listener)

    def on_left(self, listener: Listener) -> None:
        """`listener` is called for each socket that has left; it must not wait."""
        self._left.append(listener)

    def _tell_listeners(self, listeners: Sequence[Listener], connection: Connection) -> None:
        for listener in listeners:
            try:
                listener(connection)
            except Exception:  # the boundary to other parts: whatever befalls them, a socket is in the hub or it is not
                _log.exception("a listener of sockets failed")

    def find(self, account_id: str, connection_id: str) -> Connection | None:
        room = self._rooms.get(account_id)
        return None if room is None else room.connections.get(connection_id)

    def of_account(self, account_id: str) -> list[Connection]:
        room = self._rooms.get(account_id)
        return [] if room is None else [*room.connections.values()]

    def of_session(self, account_id: str, session_id: str) -> list[Connection]:
        """The session-scoped sockets of a session."""
        room = self._rooms.get(account_id)
        return [] if room is None else [*room.of_session(session_id).values()]

    def of_machine(self, account_id: str, machine_id: str) -> list[Connection]:
        """The machine-scoped sockets of a machine."""
        room = self._rooms.get(account_id)
        return [] if room is None else [*room.of_machine(machine_id).values()]

    def listeners(self, account_id: str, audience: Audience) -> list[Connection]:
        """Whoever hears here what is for an audience."""
        room = self._rooms.get(account_id)
        return [] if room is None else room.listeners(audience)

    def all(self) -> list[Connection]:
        """Every socket of this worker."""
        return [connection for room in self._rooms.values() for connection in room.connections.values()]

    @property
    def accounts(self) -> list[str]:
        """The accounts that have sockets here."""
        return list(self._rooms)

    def by_kind(self) -> dict[str, int]:
        """How many sockets there are, by the kind of their scope."""
        counts = {"user-scoped": 0, "session-scoped": 0, "machine-scoped": 0}
        for room in self._rooms.values():
            for connection in room.connections.values():
                counts[connection.scope.kind] += 1
        return counts

    def on_revoked(self, user_id: str, session_id: str | None) -> None:
        """Ends the sockets of a session, or with None of the whole account."""
        for connection in self.of_account(user_id):
            if session_id is None or connection.auth_session_id == session_id:
                connection.end(REVOKED, "token was revoked")

    def _forget_empty(self, room: Room) -> None:
        if not room.connections and not room.joining:
            if self._rooms.get(room.account_id) is room:
                del self._rooms[room.account_id]
            if room.timer is not None:
                room.timer.cancel()
                room.timer = None

    # -- the first number of a room --------------------------------------------------------------------------------------

    async def _opened(self, room: Room) -> bool:
        if room.ready is None:
            room.ready = asyncio.get_running_loop().create_future()
            self._unopened.append(room)
            if self._opener is None:
                self._opener = asyncio.create_task(self._open_rooms(), name="numbers of accounts")
        return await asyncio.shield(room.ready)

    async def _open_rooms(self) -> None:
        """Reads the heads of all accounts that wait for theirs, many at once: everybody comes back at the same time."""
        rooms: list[Room] = []
        try:
            while self._unopened:
                rooms, self._unopened = self._unopened[:HEADS_CHUNK], self._unopened[HEADS_CHUNK:]
                try:
                    numbers = await self._heads([room.account_id for room in rooms])
                except Unavailable:
                    numbers = {}
                for room in rooms:
                    self._open(room, numbers.get(room.account_id, -1))
        except BaseException:
            for room in [*rooms, *self._unopened]:
                self._open(room, -1)
            self._unopened = []
            raise
        finally:
            self._opener = None

    def _open(self, room: Room, seq: int) -> None:
        ready, room.ready = room.ready, None
        if seq >= 0:
            # What was announced before the head was read is part of what the clients are about to read anyway.
            room.told = max(room.told, seq)
            self._settle(room)
        if ready is not None and not ready.done():
            ready.set_result(seq >= 0)

    async def _heads(self, account_ids: Sequence[str]) -> dict[str, int]:
        async def body(tx: ReadTx) -> dict[str, int]:
            return await heads.seqs(tx, account_ids)

        return await self._db.read(body, snapshot=False)

    # -- from the commit to the sockets ----------------------------------------------------------------------------------

    @property
    def is_alone(self) -> bool:
        """Whether all sockets there are belong to this worker."""
        # Who has stopped to listen is not the one subscription that there may be.
        return self._unsubscribe is not None and self._bus.is_alone(CHANNEL)

    async def publish(self, updates: Sequence[Update], events: Sequence[Event]) -> None:
        """Tells this worker's sockets on the loop's next turn, and the other workers, if there are any. Never raises."""
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._send_outgoing)
        self._outgoing += updates
        self._outgoing += events
        if not self.is_alone:
            await self._bus.publish(CHANNEL, self._own + _encode(_Packet(updates, events)))

    def _send_outgoing(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        self._hear(outgoing)

    def _receive(self, message: bytes) -> None:
        if message.startswith(self._own):
            return  # told already
        try:
            packet = _decode(message[message.index(b"\n") + 1 :])
        except ValueError:  # another version of the server speaks on this bus
            _log.warning("unreadable announcement")
            self.look()
            return
        self._hear(packet.updates)
        self._hear(packet.events)

    def _hear(self, told: Iterable[Update | Event]) -> None:
        rooms = self._rooms
        for one in told:
            room = rooms.get(one.account_id)
            if room is None:
                continue
            if isinstance(one, Update):
                self._take(room, one)
            elif room.connections:
                self.counts.events += 1
                self._send(room, event_frame(one), one.audience, one.sender, always=True)

    def _take(self, room: Room, update: Update) -> None:
        seq = update.seq
        if room.told >= 0:
            if seq == room.told + 1:
                self._tell(room, seq, update)
                if room.waiting or room.known > seq:
                    self._settle(room)
                return
            if seq <= room.told:
                return  # told before, by the log or by a bus that says things twice
        room.known = max(room.known, seq)
        if room.waiting is None:
            room.waiting = {}
        if len(room.waiting) < MAX_WAITING:
            room.waiting[seq] = update
        self._expect(room)

    def _tell(self, room: Room, seq: int, update: Update | None) -> None:
        room.told = seq
        if update is not None:
            self.counts.updates += 1
            self._send(room, update_frame(update), update.audience, update.sender, always=False)

    def _send(self, room: Room, frame: Frame, audience: Audience, sender: str, *, always: bool) -> None:
        """Args: always: whether the sender is left out whatever its protocol says."""
        connections = room.listeners(audience)
        if sender:
            connections = [one for one in connections if one.id != sender or not (always or one.skips_own)]
        self.counts.deliveries += len(connections)
        for connection in connections:
            connection.send(frame)

    def _settle(self, room: Room) -> None:
        """Tells what waits, as far as it follows; what is still missing is waited for."""
        self._tell_waiting(room)
        if room.known > room.told:
            self._expect(room)
        elif room.timer is not None:
            room.timer.cancel()
            room.timer = None

    def _tell_waiting(self, room: Room) -> None:
        waiting = room.waiting
        if not waiting:
            return
        if min(waiting) <= room.told:
            waiting = room.waiting = {seq: update for seq, update in waiting.items() if seq > room.told}
        while (update := waiting.pop(room.told + 1, None)) is not None:
            self._tell(room, room.told + 1, update)
        if not waiting:
            room.waiting = None

    def _expect(self, room: Room) -> None:
        if room.timer is None and not room.filling and room.told >= 0:
            room.timer = asyncio.get_running_loop().call_later(self._wait_seconds, self._give_up, room)

    def _give_up(self, room: Room) -> None:
        room.timer = None
        # A room that was forgotten must not stand in the place of the account's next one.
        if room.known > room.told >= 0 and self._rooms.get(room.account_id) is room:
            room.filling = True
            self._gaps[room.account_id] = room
            self._fill_soon()

    # -- what no announcement told ---------------------------------------------------------------------------------------

    def _fill_soon(self) -> None:
        if self._filler is None and self._gaps and not self.closing:
            self._filler = asyncio.create_task(self._fill_all(), name="missed updates")

    async def _fill_all(self) -> None:
        try:
            await attempted("missed updates", self._fill_each)  # what failed is tried again by the ticker
        finally:
            self._filler = None

    async def _fill_each(self) -> None:
        while self._gaps:
            account_id, room = next(iter(self._gaps.items()))
            if self._rooms.get(account_id) is room and room.known > room.told:
                await self._fill(room)
            else:
                del self._gaps[account_id]
                room.filling = False

    async def _fill(self, room: Room) -> None:
        start = room.told

        async def body(tx: ReadTx) -> list[log.Entry]:
            return await log.after(tx, room.account_id, start, self.rebuild)

        entries = await self._db.read(body)
        for entry in entries:
            if entry.seq > room.told + 1:
                self._tell_waiting(
                    room
                )  # what only this worker's messages are numbered with is announced and not logged
            if entry.seq == room.told + 1:
                self.counts.filled += 1
                self._tell(room, entry.seq, entry.update)
        self._tell_waiting(room)
        if room.told == start:
            self._lose(room)
        else:
            self._settle(room)

    def _lose(self, room: Room) -> None:
        self.counts.lost += 1
        _log.warning("missed updates are no longer in the log", account_id=room.account_id, after=room.told)
        for connection in [*room.connections.values()]:
            connection.end(GOING_AWAY, "updates were missed")
        room.told = room.known
        self._settle(room)

    def look(self) -> None:
        """Looks at the heads of all accounts that have sockets here: announcements may have been lost."""
        if self._looker is None and not self.closing:
            self._looker = asyncio.create_task(self._look(), name="heads of accounts")

    async def _look(self) -> None:
        try:
            await attempted("heads of accounts", self._look_at_all)
        finally:
            self._looker = None

    async def _look_at_all(self) -> None:
        accounts = list(self._rooms)
        for start in range(0, len(accounts), HEADS_CHUNK):
            numbers = await self._heads(accounts[start : start + HEADS_CHUNK])
            for account_id, seq in numbers.items():
                room = self._rooms.get(account_id)
                if room is not None and seq > room.told >= 0:
                    room.known = max(room.known, seq)
                    self._expect(room)

    # -- time ------------------------------------------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.tick()

    def tick(self) -> None:
        """One step of the only timer: signs of life, and numbers that nobody announced."""
        for connection in self.all():
            connection.tick()
        self._fill_soon()
        self.look()


__all__ = ["Connection", "ConnectionEnded", "Counts", "Hub", "Listener", "TooManySockets"]
