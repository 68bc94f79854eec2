"""Packets of Socket.IO: what the reference library writes we read, and what we write it reads; nothing else gets through."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from socketio.packet import Packet as Theirs

from hapta.relay.updates import packets
from hapta.relay.updates.packets import BadPacket

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)
NAMES = TEXT.filter(lambda name: name not in ("connect", "connect_error", "disconnect", "disconnecting"))
NAMESPACES = st.sampled_from(["/", "/admin", "/a/b"])


@given(NAMES, st.lists(JSON, max_size=3), NAMESPACES, st.none() | st.integers(0, 10**12))
def test_an_event_that_the_reference_library_writes_is_read_as_it_was_meant(
    name: str, arguments: list[Any], namespace: str, packet_id: int | None
) -> None:
    text: Any = Theirs(packets.EVENT, [name, *arguments], namespace=namespace, id=packet_id, binary=False).encode()
    assert packets.read(text) == (packets.EVENT, namespace, packet_id, [name, *arguments], 0)


@given(st.lists(JSON, max_size=3), st.integers(0, 10**12))
def test_an_acknowledgement_that_the_reference_library_writes_is_read_as_it_was_meant(
    arguments: list[Any], packet_id: int
) -> None:
    text: Any = Theirs(packets.ACK, arguments, id=packet_id, binary=False).encode()
    assert packets.read(text) == (packets.ACK, "/", packet_id, arguments, 0)


@given(st.dictionaries(TEXT, JSON, max_size=3), NAMESPACES)
def test_a_connection_that_the_reference_library_asks_for_is_read_as_it_was_meant(
    auth: dict[str, Any], namespace: str
) -> None:
    text: Any = Theirs(packets.CONNECT, auth, namespace=namespace, binary=False).encode()
    assert packets.read(text) == (packets.CONNECT, namespace, None, auth, 0)


@given(NAMES, JSON, st.integers(1, 10**6))
def test_the_reference_library_reads_what_we_write(name: str, value: Any, packet_id: int) -> None:
    asked = Theirs(encoded_packet=packets.event(name, value, packet_id).text[1:])
    assert (asked.packet_type, asked.id, asked.data) == (packets.EVENT, packet_id, [name, value])
    answered = Theirs(encoded_packet=packets.acknowledgement(packet_id, json.dumps(value).encode()).text[1:])
    assert (answered.packet_type, answered.id, answered.data) == (packets.ACK, packet_id, [value])
    empty = Theirs(encoded_packet=packets.acknowledgement(packet_id, b"").text[1:])
    assert empty.data == []
    assert Theirs(encoded_packet=packets.connected("x").text[1:]).data == {"sid": "x"}
    refused = Theirs(encoded_packet=packets.refused("/admin", name).text[1:])
    assert (refused.packet_type, refused.namespace, refused.data) == (4, "/admin", {"message": name})


def test_attachments_are_counted() -> None:
    text: Any = Theirs(packets.EVENT, ["x", b"1", {"y": b"2"}], id=7).encode()
    packet = packets.read(text[0])
    assert (packet.kind, packet.id, packet.attachments) == (packets.BINARY_EVENT, 7, 2)
    assert packets.read("61-3[{}]").kind == packets.BINARY_ACK


def test_a_query_behind_a_namespace_is_no_part_of_it() -> None:
    assert packets.read("0/admin?token=1,{}").namespace == "/admin"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "x",
        "2",
        "2[]",
        "2{}",
        "2[1]",
        "2[null]",
        '2["connect"]',
        '2["disconnect",1]',
        '2["newListener"]',
        "0[]",
        "0x",
        '1["x"]',
        "3",
        "3{}",
        '4{"message":"x"}',
        '4"x"',
        '5["x"]',
        '51["x"]',
        '517-["x"]',
        '5999-["x"]',
        '21-["x"]',
        "6[]",
        '2["x"',
        '2["x"]]',
        "2/admin",
        '2["x",NaN]',
        '2["x",1e999]',
        '2["\\ud800"]',
        "21234567890123456789[",
        '2["x",' + "[" * 100_000 + "]" * 100_000 + "]",
    ],
    ids=lambda text: text[:20],
)
def test_what_the_protocol_does_not_allow_is_refused(text: str) -> None:
    with pytest.raises(BadPacket):
        packets.read(text)


@given(
    st.text(max_size=40)
    | st.from_regex(r"[0-7](\d{0,3}-)?(/[a-z]{0,3},?)?\d{0,20}[\[\]{}\",:0-9a-z]{0,12}", fullmatch=True)
)
def test_anything_else_is_a_packet_or_refused(text: str) -> None:
    try:
        packet = packets.read(text)
    except BadPacket:
        return
    assert packet.kind in (0, 1, 2, 3, 5, 6)
    assert packet.namespace.startswith("/")
