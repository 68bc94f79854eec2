"""Identifiers: what is put together by hand is what the standard's own reader takes it for."""

from __future__ import annotations

from uuid import RFC_4122, UUID

import pytest

from hapta.kit.ids import RandomIds, uuid7


@pytest.mark.parametrize("chance", [bytes(10), b"\xff" * 10, bytes(range(0xF0, 0xFA)), b"\x12\x34\x5f" + bytes(7)])
def test_a_uuid_of_version_7_holds_the_time_and_all_of_the_chance_but_six_bits(chance: bytes) -> None:
    made = UUID(uuid7(1_790_000_000_123, chance))
    assert made.version == 7
    assert made.variant == RFC_4122
    assert made.int >> 80 == 1_790_000_000_123
    kept = ~(0xF << 76 | 0x3 << 62) & (1 << 80) - 1
    assert made.int & kept == int.from_bytes(chance) & kept


def test_ids_are_canonical_text_and_never_the_same() -> None:
    ids = [RandomIds().uuid() for _ in range(100)]
    assert all(str(UUID(one)) == one for one in ids)
    assert len(set(ids)) == len(ids)
