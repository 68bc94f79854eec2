"""Sealed values open for their context and key, and for nothing else."""

from __future__ import annotations

import pytest

from hapta.kit.seal import BadSeal, Sealer

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))


def test_what_was_sealed_opens_for_its_context_alone() -> None:
    sealer = Sealer.of(KEY)
    sealed = sealer.seal(b"seed", b"totp:alice")
    assert sealer.open(sealed, b"totp:alice") == b"seed"
    assert b"seed" not in sealed
    with pytest.raises(BadSeal):
        sealer.open(sealed, b"totp:bob")
    with pytest.raises(BadSeal):
        Sealer.of(OTHER).open(sealed, b"totp:alice")


def test_any_changed_bit_is_noticed() -> None:
    sealer = Sealer.of(KEY)
    sealed = sealer.seal(b"seed", b"x")
    for place in range(len(sealed)):
        changed = bytes([*sealed[:place], sealed[place] ^ 1, *sealed[place + 1 :]])
        with pytest.raises(BadSeal):
            sealer.open(changed, b"x")
    for length in range(len(sealed)):
        with pytest.raises(BadSeal):
            sealer.open(sealed[:length], b"x")


def test_a_new_key_seals_while_the_old_one_still_opens() -> None:
    old = Sealer({b"old1": OTHER})
    ring = Sealer({b"new1": KEY, b"old1": OTHER})
    assert ring.open(old.seal(b"value", b"c"), b"c") == b"value"
    with pytest.raises(BadSeal):
        old.open(ring.seal(b"value", b"c"), b"c")


def test_two_seals_of_one_value_differ() -> None:
    sealer = Sealer.of(KEY)
    assert sealer.seal(b"value", b"c") != sealer.seal(b"value", b"c")


@pytest.mark.parametrize("keys", [{}, {b"abc": KEY}, {b"abcd": KEY[:31]}])
def test_a_ring_without_a_proper_key_is_refused(keys: dict[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="ring"):
        Sealer(keys)
