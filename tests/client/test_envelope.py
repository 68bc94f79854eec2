"""The envelope: the contract's vector, and that nothing opens where it was not sealed for."""

from __future__ import annotations

import uuid

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from hapta.client import envelope
from hapta.client.envelope import Entry, KeyRing, SealedLog, WrappedKey
from hapta.client.errors import DecryptFailed, WrongPassphrase
from hapta.client.kdf import split_password, stretch

PASSWORD = "correct horse battery staple"
SALT, NONCE, KEY = bytes(range(32)), bytes(range(12)), bytes(range(0x20, 0x40))
WRAPPED = WrappedKey(
    "ovClWGOEK6DBj9S9fwelVgQqjXnaB/7r1Ev2NdpxMTnW3HRtNdcr+dk1fa2T8BF/",
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "AAECAwQFBgcICQoL",
)
PLAIN = (
    b'{"id":"0b5b6f0e-4a7e-4c0e-9a4e-0d7c3f2a1b00",'
    b'"haexTimestamp":"7558151829870018560/b1a2f3c4d5e6f708192a3b4c5d6e7f80"}'
)
SEALED = (
    "J3A0w2gPydzezKvwQEM7EScR3gFHJcUhQSDq24/k5qhI6XEOfS0l1IhLytrg6ULQV3G5lzc2hPHHUHyLH59UmnD/ui/H5Y7ga1amQ2hBzqO3Ev2DoS80"
    "KAjreT7mb512dx5otRcDf+/KOPOF0noeDejNJAsAW1q2QsLAfHhTxmwG8Lxi"
)
VAULT = "11111111-1111-4111-8111-111111111111"


def fixed(size: int) -> bytes:
    return bytes(range(size))


def some_entry(**changes: str) -> Entry:
    stamp = "7558151829870018560/b1a2f3c4d5e6f708192a3b4c5d6e7f80"
    fields = {"id": str(uuid.uuid4()), "haex_timestamp": stamp, "table_name": "t", "new_value": '{"value":1}'}
    return Entry(**{**fields, **changes})


def test_the_key_encryption_key_is_the_vectors() -> None:
    expected = "613a4c3411394e24fffe6c51994307724572e574bcd98ea8cf457c64899bfbfe"
    assert stretch(PASSWORD, SALT).hex() == expected


def test_a_key_is_wrapped_and_opened_as_in_the_vector() -> None:
    assert envelope.wrap_with_passphrase(KEY, PASSWORD, fixed) == WRAPPED
    assert envelope.unwrap_with_passphrase(WRAPPED, PASSWORD) == KEY


def test_the_vectors_log_opens_and_is_sealed_to_the_same_bytes() -> None:
    ring = KeyRing(VAULT, {0: KEY}, fixed)
    entry, blob = ring.open(SealedLog(None, SEALED, WRAPPED.nonce, "whatever"))
    assert (entry.id, entry.haex_timestamp, blob) == (
        "0b5b6f0e-4a7e-4c0e-9a4e-0d7c3f2a1b00",
        "7558151829870018560/b1a2f3c4d5e6f708192a3b4c5d6e7f80",
        b"",
    )
    assert envelope.b64(AESGCM(KEY).encrypt(NONCE, PLAIN, None)) == SEALED
    bare = Entry(entry.id, entry.haex_timestamp)
    # A log row always has its row's key; the vector's has not, so compare what is written of the rest.
    assert ring.seal(bare, version=1).encrypted_data == SEALED


def test_a_wrong_passphrase_is_refused_and_both_unicode_forms_open() -> None:
    composed, decomposed = "caf\u00e9 caf\u00e9", "cafe\u0301 cafe\u0301"
    wrapped = envelope.wrap_with_passphrase(KEY, decomposed, iterations=10)
    assert envelope.unwrap_with_passphrase(wrapped, composed, iterations=10) == KEY
    with pytest.raises(WrongPassphrase):
        envelope.unwrap_with_passphrase(wrapped, "cafe", iterations=10)


def test_a_key_that_an_older_client_wrapped_under_the_raw_form_opens() -> None:
    raw = "cafe\u0301"
    kek = stretch(raw, SALT, 10)
    wrapped = WrappedKey(envelope.b64(AESGCM(kek).encrypt(NONCE, KEY, None)), WRAPPED.salt, WRAPPED.nonce)
    assert envelope.unwrap_with_passphrase(wrapped, raw, iterations=10) == KEY


def test_a_secret_wrapped_key_opens_only_in_its_vault_and_epoch() -> None:
    secret = bytes(32)
    wrapped = envelope.wrap_with_secret(KEY, secret, VAULT, 1)
    assert envelope.is_secret_wrapped(wrapped)
    assert envelope.unwrap_with_secret(wrapped, secret, VAULT, 1) == KEY
    for vault, epoch, other in [(str(uuid.uuid4()), 1, secret), (VAULT, 2, secret), (VAULT, 1, bytes([1]) * 32)]:
        with pytest.raises(WrongPassphrase):
            envelope.unwrap_with_secret(wrapped, other, vault, epoch)


def test_the_two_halves_of_a_login_differ_and_do_not_show_themselves() -> None:
    secrets = split_password(PASSWORD, SALT, 10)
    assert secrets.auth != envelope.b64(secrets.wrap)
    assert secrets.auth not in repr(secrets)
    assert split_password("caf\u00e9", SALT, 10).auth == split_password("cafe\u0301", SALT, 10).auth
    assert split_password(PASSWORD, bytes(32), 10).auth != secrets.auth


@given(text=st.text(max_size=300), blob=st.binary(max_size=3000))
def test_what_was_sealed_opens_again(text: str, blob: bytes) -> None:
    ring = KeyRing(VAULT, {0: KEY})
    entry = some_entry(table_name=text)
    assert ring.open(ring.seal(entry, blob)) == (entry, blob)
    assert ring.open(ring.seal(entry, version=1)) == (entry, b"")


@pytest.mark.parametrize("place", ["id", "vault", "stamp", "data", "epoch"])
def test_a_log_that_was_moved_or_altered_does_not_open(place: str) -> None:
    ring = KeyRing(VAULT, {0: KEY, 1: bytes(32)})
    log = ring.seal(some_entry())
    reader = KeyRing(str(uuid.uuid4()), ring.keys) if place == "vault" else ring
    changed = SealedLog(
        str(uuid.uuid4()) if place == "id" else log.id,
        log.encrypted_data[:-8] + "AAAAAAA=" if place == "data" else log.encrypted_data,
        log.nonce,
        "1/1" if place == "stamp" else log.haex_timestamp,
        7 if place == "epoch" else log.key_epoch,
    )
    assert ring.open(log)[0].id == log.id
    with pytest.raises(DecryptFailed):
        reader.open(changed)


def test_a_v2_log_does_not_show_its_time_and_a_v1_log_does() -> None:
    ring, entry = KeyRing(VAULT, {0: KEY}), some_entry()
    assert ring.seal(entry).haex_timestamp == envelope.HIDDEN_STAMP
    assert ring.seal(entry, version=1).haex_timestamp == entry.haex_timestamp


@given(st.integers(0, 2**40))
def test_padding_never_shrinks_costs_at_most_an_eighth_and_is_stable(size: int) -> None:
    padded = envelope.padme(size)
    assert size <= padded <= size + size // 8 + 1
    assert envelope.padme(padded) == padded


def test_lengths_that_are_near_each_other_look_the_same() -> None:
    ring = KeyRing(VAULT, {0: KEY})
    sizes = {len(ring.seal(some_entry(new_value="x" * n)).encrypted_data) for n in range(1000, 1064)}
    assert len(sizes) <= 3
