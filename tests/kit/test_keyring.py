"""The ring of keys: what counts under both secrets while one replaces the other, and what never changes with them."""

from __future__ import annotations

import pytest

from hapta.identity.internal.tokens import InternalTokens
from hapta.identity.session_keys import BadKey, SessionKey, SessionKeys
from hapta.kit.access import SessionId, UserId
from hapta.kit.errors import InvalidToken
from hapta.kit.ids import RandomIds
from hapta.kit.keyring import LASTING, Keyring, first_lasting
from hapta.kit.seal import BadSeal
from hapta.kit.secrets import derive_key
from hapta.kit.tokens import BadToken, Hs256, ring, secrets_of, sign
from hapta.oauth.families.envelope import Envelopes
from hapta.oauth.families.models import Envelope
from hapta.testing.clock import FakeClock

OLD, NEW = "the first secret of a server in tests", "the second secret of a server in tests"
BEFORE, AHEAD = Keyring(OLD), Keyring(OLD, NEW)
BOTH, AFTER = Keyring(NEW, OLD), Keyring(NEW)


def test_the_current_key_is_the_first_of_all_that_count() -> None:
    assert BOTH.every("csrf") == (derive_key(NEW, "csrf"), derive_key(OLD, "csrf"))
    assert BOTH.current("csrf") == AFTER.current("csrf") != BEFORE.current("csrf")
    assert AFTER.every("csrf") == (derive_key(NEW, "csrf"),)


def test_a_lasting_key_cannot_be_had_before_it_was_read() -> None:
    for purpose in LASTING:
        with pytest.raises(RuntimeError, match=purpose):
            BOTH.current(purpose)


def test_a_lasting_key_is_the_same_under_every_secret() -> None:
    kept = first_lasting(OLD)
    for purpose in LASTING:
        keys = {one.with_lasting(kept).every(purpose) for one in (BEFORE, AHEAD, BOTH, AFTER)}
        assert keys == {(derive_key(OLD, purpose),)}


def test_a_bare_secret_is_a_ring_of_one_with_the_keys_that_it_gives() -> None:
    assert Keyring.of(OLD).current("subject") == derive_key(OLD, "subject")
    assert Keyring.of(BOTH) is BOTH


@pytest.mark.parametrize(("signer", "reader"), [(BEFORE, AHEAD), (AHEAD, BOTH), (BOTH, AHEAD), (BOTH, AFTER)])
def test_whatever_one_step_of_a_rotation_signs_counts_at_its_neighbours(signer: Keyring, reader: Keyring) -> None:
    clock, ids = FakeClock(), RandomIds()
    claims = {"sub": "ada", "type": "access", "exp": clock.now() + 60}
    token = sign(claims, ring(signer, "access-token", "access-token-kid")[0])
    assert Hs256(secrets_of(ring(reader, "access-token", "access-token-kid")), clock).verify(token) == claims

    held = SessionKey(UserId("ada"), SessionId("s"), 3)
    assert SessionKeys(reader).read(SessionKeys(signer).new(held)) == held

    envelope = Envelope("app", "family", "ada", "jti", 1, int(clock.now()) + 60)
    theirs, ours = Envelopes(signer, clock), Envelopes(reader, clock)
    assert ours.open(theirs.sign(envelope)) == envelope
    assert ours.unseal(theirs.seal("successor", envelope), envelope) == "successor"

    assert reader.sealer("flow-seal").open(signer.sealer("flow-seal").seal(b"flow", b"c"), b"c") == b"flow"

    call = InternalTokens(signer, clock, ids, "auth").sign_call("GET", "/x", b"")
    InternalTokens(reader, clock, ids, "resource").check_call(call, "GET", "/x", b"")


def test_nothing_of_the_former_secret_counts_once_it_is_taken_away() -> None:
    clock, ids = FakeClock(), RandomIds()
    token = sign({"sub": "ada", "type": "access", "exp": clock.now() + 60}, ring(BEFORE, "access-token")[0])
    with pytest.raises(BadToken):
        Hs256(secrets_of(ring(AFTER, "access-token")), clock).verify(token)
    with pytest.raises(BadKey):
        SessionKeys(AFTER).read(SessionKeys(BEFORE).new(SessionKey(UserId("ada"), SessionId("s"), 3)))
    envelope = Envelope("app", "family", "ada", "jti", 1, int(clock.now()) + 60)
    assert Envelopes(AFTER, clock).open(Envelopes(BEFORE, clock).sign(envelope)) is None
    assert Envelopes(AFTER, clock).unseal(Envelopes(BEFORE, clock).seal("successor", envelope), envelope) is None
    with pytest.raises(BadSeal):
        AFTER.sealer("flow-seal").open(BEFORE.sealer("flow-seal").seal(b"flow", b"c"), b"c")
    call = InternalTokens(BEFORE, clock, ids, "auth").sign_call("GET", "/x", b"")
    with pytest.raises(InvalidToken):
        InternalTokens(AFTER, clock, ids, "resource").check_call(call, "GET", "/x", b"")
