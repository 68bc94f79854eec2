"""The hub: whoever listens hears every update of its scope once and in order, whatever befalls the announcements."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hapta.db.database import ReadTx, WriteTx
from hapta.relay.models import ALL, USERS, Audience, Event, Update, ephemeral, machine_audience, session_audience
from hapta.relay.updates.hub import Connection
from hapta.relay.updates.upkeep import Trimmer
from hapta.settings.relay import RelaySettings
from tests.relay.house import A, B, Guest, House, NativeSocket, until

SESSION = "session-1"
MACHINE = "machine-1"


def numbered(*numbers: int) -> list[dict[str, object]]:
    return [{"t": "test", "n": number} for number in numbers]


async def told(socket: NativeSocket) -> list[int]:
    """What the tests' own updates say, in the order in which they came."""
    frames = await socket.seen()
    updates = [frame["data"] for frame in frames if frame.get("event") == "update"]
    seqs = [update["seq"] for update in updates]
    assert seqs == sorted(set(seqs))
    return [update["body"]["n"] for update in updates if update["body"]["t"] == "test"]


async def all_told(socket: NativeSocket, count: int) -> list[int]:
    """As `told`, waiting until there are `count`."""
    return [(await socket.update("test"))["body"]["n"] for _ in range(count)]


# -- scopes (contract relay, section 14.4) -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("audience", "heard_by"),
    [
        (USERS, {"user"}),
        (session_audience(SESSION), {"user", "session"}),
        (machine_audience(MACHINE), {"user", "machine"}),
        (Audience("only-session", SESSION), {"session"}),
        (Audience("only-machine", MACHINE), {"machine"}),
        (ALL, {"user", "session", "machine", "other session", "other machine"}),
        (session_audience("unknown"), {"user"}),
    ],
    ids=["user", "session", "machine", "only session", "only machine", "all", "nobody's session"],
)
async def test_an_update_is_heard_by_its_audience_and_nobody_else(
    house: House, a: Guest, b: Guest, audience: Audience, heard_by: set[str]
) -> None:
    async with (
        a.socket() as user,
        a.socket(session=SESSION) as session,
        a.socket(machine=MACHINE) as machine,
        a.socket(session="session-2") as other_session,
        a.socket(machine="machine-2") as other_machine,
        b.socket() as stranger,
        b.socket(session=SESSION) as strange_session,
        b.socket(machine=MACHINE) as strange_machine,
    ):
        sockets = {
            "user": user,
            "session": session,
            "machine": machine,
            "other session": other_session,
            "other machine": other_machine,
            "b": stranger,
            "b's session": strange_session,
            "b's machine": strange_machine,
        }
        await house.tell(A, *numbered(1), audience=audience)
        await house.relay.updates.tell(ephemeral(A, {"type": "test"}, audience))

        heard = {name: await socket.seen() for name, socket in sockets.items()}

        updates = {name for name, frames in heard.items() if any(frame["event"] == "update" for frame in frames)}
        ephemerals = {
            name for name, frames in heard.items() if any(frame["data"].get("type") == "test" for frame in frames)
        }
        assert updates == ephemerals == heard_by


async def test_an_update_has_the_envelope_of_the_contract(house: House, a: Guest) -> None:
    async with a.socket() as socket:
        [update] = await house.tell(A, {"t": "update-session", "id": "s", "sid": "s", "text": 'quotes " and \u2028'})

        assert await socket.receive() == {
            "event": "update",
            "data": {
                "id": update.id,
                "seq": update.seq,
                "body": {"t": "update-session", "id": "s", "sid": "s", "text": 'quotes " and \u2028'},
                "createdAt": house.clock.now_ms(),
            },
        }


async def test_the_sender_of_an_event_does_not_hear_it(house: House, a: Guest) -> None:
    async with a.socket() as sender, a.socket() as other:
        await house.relay.updates.tell(Event(A, "ephemeral", msgspec.Raw(b'{"type":"test"}'), ALL, sender.id))

        assert (await other.ephemeral("test"))["type"] == "test"
        assert not await sender.seen()


async def test_a_native_socket_hears_the_updates_that_it_made_itself(house: House, a: Guest) -> None:
    async with a.socket() as sender:
        await house.tell(A, *numbered(1), sender=sender.id)

        assert await told(sender) == [1]


# -- order, and nothing twice ------------------------------------------------------------------------------------------------


async def test_announcements_in_another_order_are_told_in_order(house: House, a: Guest) -> None:
    async with a.socket() as socket:
        updates = await house.commit(A, *numbered(1, 2, 3, 4))
        for index in (2, 0, 3, 1):
            await house.relay.updates.announce([updates[index]])

        assert await all_told(socket, 4) == [1, 2, 3, 4]


async def test_what_is_announced_twice_is_told_once(house: House, a: Guest) -> None:
    async with a.socket() as socket:
        updates = await house.tell(A, *numbered(1, 2))
        await house.relay.updates.announce(updates)
        await house.relay.updates.announce(updates[:1])

        assert await told(socket) == [1, 2]


async def test_a_number_whose_announcement_is_missing_is_read_from_the_log(house: House, a: Guest) -> None:
    async with a.socket() as socket:
        await house.commit(A, *numbered(1, 2))
        await house.tell(A, *numbered(3))

        assert await all_told(socket, 3) == [1, 2, 3]
        assert house.relay.hub.counts.filled > 0


async def test_what_nobody_announced_is_found_by_looking_at_the_heads(house: House, a: Guest) -> None:
    async with a.socket() as socket:
        await house.commit(A, *numbered(1, 2))
        house.relay.hub.tick()

        assert await all_told(socket, 2) == [1, 2]


async def test_a_long_gap_is_told_page_by_page(house: House, a: Guest) -> None:
    async with a.socket() as socket:
        await house.commit(A, *numbered(*range(450)))
        await house.tell(A, *numbered(450))

        assert await all_told(socket, 451) == list(range(451))


async def test_more_numbers_out_of_order_than_are_kept_in_memory_come_from_the_log(house: House, a: Guest) -> None:
    async with a.socket() as socket:
        updates = await house.commit(A, *numbered(*range(1200)))
        await house.relay.updates.announce(updates[1:])

        assert await all_told(socket, 1200) == list(range(1200))


async def test_a_gap_that_the_log_no_longer_holds_ends_the_sockets(house: House, a: Guest) -> None:
    async with a.socket() as socket:
        await house.commit(A, *numbered(1, 2))

        async def forget(tx: WriteTx) -> int:
            return await tx.execute("DELETE FROM res_relay_updates WHERE account_id = :id", id=A)

        await house.db.write(forget)
        house.relay.hub.tick()

        assert await socket.closed() == 1012
    assert house.relay.hub.counts.lost == 1
    async with a.socket() as socket:  # it comes back, reads everything, and hears what follows
        await house.tell(A, *numbered(3))
        assert await told(socket) == [3]


async def test_a_number_that_is_neither_logged_nor_announced_ends_the_sockets(house: House, a: Guest) -> None:
    async def forget(tx: WriteTx) -> int:
        return await tx.execute("DELETE FROM res_relay_updates WHERE account_id = :id AND seq = 2", id=A)

    async with a.socket() as socket:
        await house.commit(A, *numbered(1, 2, 3))
        await house.db.write(forget)
        await house.tell(A, *numbered(4))

        assert await all_told(socket, 1) == [1]
        assert await socket.closed() == 1012
    assert house.relay.hub.counts.lost == 1


async def test_a_socket_hears_nothing_from_before_it_was_connected(house: House, a: Guest) -> None:
    await house.tell(A, *numbered(1))
    await house.commit(A, *numbered(2))
    async with a.socket() as socket:
        await house.tell(A, *numbered(3))

        assert await told(socket) == [3]


async def test_a_body_without_a_copy_in_the_log_is_made_again_by_its_noun(house: House, a: Guest) -> None:
    async def made(tx: ReadTx, account_id: str, refs: Any) -> dict[str, bytes]:
        assert account_id == A
        return {ref: b'{"t":"test","n":%d}' % int(ref.partition("/")[2]) for ref in refs if ref != "test/2"}

    house.relay.hub.rebuild["test"] = made
    async with a.socket() as socket:
        for number in (1, 2, 3):
            await house.commit(A, *numbered(number), ref=f"test/{number}")
        await house.tell(A, *numbered(4))

        # The thing behind the second one is gone since: there is nothing to tell of it.
        assert await all_told(socket, 3) == [1, 3, 4]


class Story(NamedTuple):
    """Numbered updates, what becomes of the announcement of each, the order of those, and when a second socket joins."""

    account: str
    fates: list[int]
    order: list[int]
    late: int


@st.composite
def stories(draw: st.DrawFn) -> Story:
    fates = draw(st.lists(st.integers(0, 2), min_size=1, max_size=30))
    order = draw(st.permutations(range(len(fates))))
    return Story(str(draw(st.uuids())), fates, order, draw(st.integers(0, len(fates) - 1)))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(story=stories())
async def test_any_order_and_any_loss_of_announcements_ends_in_the_same_story(house: House, story: Story) -> None:
    account, fates, order, late = story
    token = f"token-of-{account}"
    house.tokens.add(token, account)
    count = len(fates)
    async with house.guest(token).socket() as early:
        updates = await house.commit(account, *numbered(*range(late)))
        joined = house.guest(token).socket()
        async with joined:
            updates += await house.commit(account, *numbered(*range(late, count)))
            for index in order:
                for _ in range(fates[index]):
                    await house.relay.updates.announce([updates[index]])
            house.relay.hub.tick()
            assert await all_told(early, count) == list(range(count))
            heard = await all_told(joined, count - late)
            while heard[-1] != count - 1:  # the room may have been behind when the second socket joined
                heard += await all_told(joined, 1)
            assert heard == list(range(count - len(heard), count))
            assert await told(early) == await told(joined) == []


# -- several workers ---------------------------------------------------------------------------------------------------------


async def test_sockets_of_every_worker_hear_what_any_worker_tells(two_workers: tuple[House, House]) -> None:
    first, second = two_workers
    async with (
        first.guest("a").socket() as here,
        second.guest("a").socket() as there,
        second.guest("b").socket() as stranger,
    ):
        for number in range(20):
            await (first, second)[number % 2].tell(A, *numbered(number))

        assert await all_told(here, 20) == await all_told(there, 20) == list(range(20))
        await first.relay.updates.tell(ephemeral(A, {"type": "test"}, ALL))
        assert (await there.ephemeral("test"))["type"] == "test"
        assert not await stranger.seen()


async def test_a_worker_killed_between_commit_and_word_leaves_no_gap_on_the_other(
    two_workers: tuple[House, House],
) -> None:
    first, second = two_workers
    async with second.guest("a").socket() as socket:
        await first.tell(A, *numbered(1))
        await first.commit(A, *numbered(2, 3))
        assert await all_told(socket, 1) == [1]
        second.relay.hub.tick()
        assert await all_told(socket, 2) == [2, 3]
        await first.commit(A, *numbered(4))
        await second.tell(A, *numbered(5))
        assert await all_told(socket, 2) == [4, 5]


async def test_a_gap_of_the_bus_is_closed_from_the_log(house: House, a: Guest) -> None:
    async with a.socket() as socket:
        await house.commit(A, *numbered(1))
        house.relay.hub.look()  # what the bus calls when it was away

        assert await all_told(socket, 1) == [1]


async def test_words_of_another_version_on_the_bus_harm_nobody(house: House, a: Guest) -> None:
    async with a.socket() as socket:
        for message in (b"", b"no line end", b"other\n{", b'other\n[[["x"]],[]]', b"\xff\n[[],[]]"):
            await house.bus.publish("relay.updates", message)
            await house.bus.publish("relay.census", message)
        await house.tell(A, *numbered(1))

        assert await all_told(socket, 1) == [1]


# -- joining and leaving -----------------------------------------------------------------------------------------------------


async def test_listeners_hear_of_each_socket_that_comes_and_goes(house: House, a: Guest) -> None:
    story: list[tuple[str, str]] = []
    house.relay.hub.on_joined(lambda connection: story.append(("joined", connection.id)))
    house.relay.hub.on_left(lambda connection: story.append(("left", connection.id)))
    async with a.socket() as first:
        async with a.socket(session=SESSION) as second:
            pass
        await until(lambda: len(story) == 3)
    await until(lambda: len(story) == 4)

    assert story == [("joined", first.id), ("joined", second.id), ("left", second.id), ("left", first.id)]
    assert house.relay.hub.accounts == []


async def test_a_listener_that_fails_keeps_no_socket_out_and_none_in(house: House, a: Guest) -> None:
    heard: list[str] = []

    def broken(connection: Connection) -> None:
        raise ZeroDivisionError

    for register in (house.relay.hub.on_joined, house.relay.hub.on_left):
        register(broken)
        register(lambda connection: heard.append(connection.id))
    async with a.socket() as socket:
        await house.tell(A, *numbered(1))
        assert await told(socket) == [1]
    await until(lambda: not house.relay.hub.accounts)

    assert heard == [socket.id, socket.id]


async def test_the_hub_finds_sockets_of_one_account_only(house: House, a: Guest, b: Guest) -> None:
    hub = house.relay.hub
    async with a.socket(session=SESSION) as session, a.socket(machine=MACHINE) as machine, b.socket(machine=MACHINE):
        assert [one.id for one in hub.of_session(A, SESSION)] == [session.id]
        assert [one.id for one in hub.of_machine(A, MACHINE)] == [machine.id]
        assert {one.id for one in hub.of_account(A)} == {session.id, machine.id}
        assert hub.find(A, session.id) is not None
        assert hub.find(B, session.id) is None
        assert hub.by_kind() == {"user-scoped": 0, "session-scoped": 1, "machine-scoped": 2}


async def test_a_socket_is_sent_away_while_the_last_number_cannot_be_read(house: House) -> None:
    await house.db.close()
    socket = await house.socket("/v1/websocket", token="a").open()

    assert await socket.closed() == 1013
    assert house.relay.hub.accounts == []


async def test_a_stopping_server_ends_its_sockets_with_1012_and_refuses_new_ones(house: House, a: Guest) -> None:
    async with a.socket() as user, a.socket(session=SESSION) as session:
        house.relay.stop_waiting()

        assert await user.closed() == await session.closed() == 1012
    late = await house.socket("/v1/websocket", token="a").open()
    assert await late.closed() == 1012


async def test_the_log_is_trimmed_by_age(house: House) -> None:
    await house.commit(A, *numbered(1, 2))
    house.clock.advance(seconds=601)
    await house.commit(A, *numbered(3))
    await Trimmer(house.db, house.clock, RelaySettings()).trim()

    async def kept(tx: ReadTx) -> list[Any]:
        return await tx.fetch_all("SELECT seq FROM res_relay_updates WHERE account_id = :id", id=A)

    assert await house.db.read(kept) == [(3,)]


async def test_an_account_that_goes_leaves_no_numbers(house: House) -> None:
    await house.commit(A, *numbered(1, 2))
    await house.commit(B, *numbered(1))

    async def purge(tx: WriteTx) -> list[Any]:
        await house.removal.purge(tx, A)
        rows = await tx.fetch_all("SELECT account_id FROM res_relay_updates")
        return rows + await tx.fetch_all("SELECT account_id FROM res_relay_heads")

    assert await house.db.write(purge) == [(B,), (B,)]


async def test_the_numbers_of_the_hub_are_on_the_metrics_page(house: House, a: Guest) -> None:
    async with a.socket(), a.socket(machine=MACHINE) as machine:
        await house.tell(A, *numbered(1), audience=ALL)
        await machine.update("test")

        page = house.metrics.render().decode()

    assert 'hapta_relay_sockets{kind="machine-scoped",worker="0"} 1.0' in page
    assert "hapta_relay_updates_total" in page
    assert "hapta_relay_deliveries_total" in page


def test_an_update_on_the_bus_keeps_its_body_letter_by_letter() -> None:
    update = Update(A, 7, "id", msgspec.Raw(b'{"t":"x","n":1.0e2}'), session_audience("s"), 5, "sender")

    assert msgspec.json.decode(msgspec.json.encode(update), type=Update) == replace_raw(update)


def replace_raw(update: Update) -> Update:
    return msgspec.structs.replace(update, body=msgspec.Raw(bytes(update.body)))
