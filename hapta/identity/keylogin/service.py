"""Key login and pairing: the rules (contract relay, section 2, and its notes on what servers get wrong).

A key account is an account like any other; its Ed25519 key is a link of the provider `key`. The server never issues the
challenge, so a signature proves the key and not the moment: what it opens is the account of that very key, nothing else.
A pairing hands a further device a session of its own; what is in the box, only the two devices know.
"""

from __future__ import annotations

import hmac
import inspect

from cryptography.exceptions import InvalidSignature as WrongSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hapta.db.database import Database, WriteTx
from hapta.identity.errors import InvalidCredentials
from hapta.identity.keylogin import store
from hapta.identity.keylogin.encodings import NotBase64, decode
from hapta.identity.keylogin.errors import InvalidPublicKey, InvalidSignature, PairingNotFound
from hapta.identity.keylogin.models import Paired, Pairing, PairingKind
from hapta.identity.lasting import LastingSessions
from hapta.identity.links.service import LinkService
from hapta.identity.models import Origin, Person, Revocation, Started
from hapta.identity.people import IdentityStore, NewPerson
from hapta.identity.sessions import SessionService
from hapta.identity.signin import SignInService
from hapta.kit.access import Caller
from hapta.kit.background import in_batches
from hapta.kit.clock import Clock
from hapta.kit.errors import TooMany
from hapta.kit.ids import Ids
from hapta.kit.keyring import Keyring, Secret
from hapta.kit.ratelimit import Limiter, Rate

PROVIDER = "key"
AMR = ("swk",)
KEY_BYTES = 32
SIGNATURE_BYTES = 64
ASKED_MS = 86_400_000
"""A request that nobody answers is forgotten after a day."""
ANSWERED_MS = 3_600_000
"""An answer can be fetched, again and again, for an hour."""
SWEEP_BATCH = 500
REFRESH_GRACE_SECONDS = 7 * 86_400
"""How long after its end a token can still be exchanged (contract relay-native, section 2.5)."""


class _AnotherPollWasFirst(Exception):
    """Two polls fetched one answer at once; both get tokens of the one session."""


class KeyLoginService:
    """Sign-in by signature, and pairing.

    Args:
        db: the auth side's database.
        limiter: counts new accounts and new requests by client address at `creations`; None: no such limit. Polls and
            repeated logins are not counted here: clients poll each second, and an error would end their wait.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: Ids,
        people: IdentityStore,
        sessions: SessionService,
        signin: SignInService,
        links: LinkService,
        secret: Secret,
        *,
        lasting: LastingSessions,
        limiter: Limiter | None = None,
        creations: Rate | None = None,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._people = people
        self._sessions = sessions
        self._signin = signin
        self._links = links
        self._lasting = lasting
        self._limiter = limiter
        self._creations = creations
        self._limit_key = Keyring.of(secret).current("limit-key")

    # --- signing in ---

    async def sign_in(self, public_key: str, challenge: str, signature: str, origin: Origin) -> str:
        """A token of the key's account, which is made on first use.

        Args:
            public_key: Ed25519, base64 like the other two.
            challenge: what was signed; the client's own choice.

        Raises:
            InvalidSignature: the signature does not hold, or one of the three is malformed.
            InvalidCredentials: the account is disabled.
            TooMany: too many new accounts from this address.
        """
        key_hex = _verified(public_key, challenge, signature)
        person = await self._person_of(key_hex, origin)

        async def body(tx: WriteTx) -> tuple[Started, list[Revocation]]:
            return await self._start(tx, person, origin)

        started, revocations = await self._db.write(body)
        await self._sessions.announce(revocations)
        return self._sessions.mint(started)

    async def _person_of(self, key_hex: str, origin: Origin) -> Person:
        user_id = await self._links.find(PROVIDER, key_hex)
        if user_id is None:
            await self._count_creation(origin)
            made = await self._people.create(NewPerson())
            # Of two first logins at once one link wins; whoever lost uses the winner's account and leaves none behind.
            user_id = await self._links.claim(PROVIDER, key_hex, made.user_id, origin)
            if user_id == made.user_id:
                return made
            await self._people.delete(made.user_id)
        person = await self._people.find(user_id)
        if person is None or person.disabled:
            raise InvalidCredentials
        return person

    async def _start(self, tx: WriteTx, person: Person, origin: Origin) -> tuple[Started, list[Revocation]]:
        return await self._signin.start_in(
            tx,
            person,
            origin,
            amr=AMR,
            provider=PROVIDER,
            token_only=True,
            lifetime=self._lasting.lifetime,
        )

    async def refresh(self, token: str) -> tuple[str, int]:
        """A newer token for one that counts, or has ended less than a week ago, and its life in seconds.

        Raises:
            InvalidToken: it does not count, or its session is over.
        """
        started = await self._lasting.exchange(token, late_seconds=REFRESH_GRACE_SECONDS)
        return self._lasting.mint(started), (started.token_expires_at - started.issued_at) // 1000

    # --- pairing ---

    async def ask(
        self, kind: PairingKind, public_key: str, origin: Origin, *, supports_v2: bool = False
    ) -> Paired | None:
        """What a device calls until somebody has answered it; None until then.

        Args:
            public_key: X25519, base64. The first call for a key decides what the request says.

        Raises:
            InvalidPublicKey: it is not 32 bytes in base64.
            TooMany: too many new requests from this address.
        """
        key_hex = _key(public_key)
        pairing = await self._find(kind, key_hex)
        if pairing is None:
            await self._count_creation(origin)
            now, request_id = self._clock.now_ms(), self._ids.uuid()
            await self._db.write(lambda tx: store.ask(tx, kind, key_hex, request_id, supports_v2, now, now + ASKED_MS))
            return None
        if pairing.response is None or pairing.user_id is None:
            return None
        return Paired(await self._token_for(pairing, origin), pairing.response)

    async def status(self, kind: PairingKind, public_key: str) -> Pairing | None:
        """A request as the device that may answer it sees it; None for what nobody asked, or what is no key."""
        try:
            key_hex = _key(public_key)
        except InvalidPublicKey:
            return None
        return await self._find(kind, key_hex)

    async def answer(self, kind: PairingKind, caller: Caller, public_key: str, response: str) -> None:
        """Answers a request for the caller's account. The first answer stays; a later one changes nothing.

        Raises:
            InvalidPublicKey, PairingNotFound: as they say.
        """
        key_hex = _key(public_key)
        now = self._clock.now_ms()

        async def body(tx: WriteTx) -> bool:
            if await store.find(tx, kind, key_hex, now) is None:
                return False
            await store.answer(tx, kind, key_hex, caller.user_id, response, now, now + ANSWERED_MS)
            return True

        if not await self._db.write(body):
            raise PairingNotFound

    async def _find(self, kind: PairingKind, key_hex: str) -> Pairing | None:
        now = self._clock.now_ms()
        return await self._db.read(lambda tx: store.find(tx, kind, key_hex, now), snapshot=False)

    async def _token_for(self, pairing: Pairing, origin: Origin) -> str:
        """A token of the new device's own session, which starts with the first call that fetches the answer."""
        if pairing.session_id is not None and pairing.user_id is not None:
            again = await self._lasting.another(pairing.user_id, pairing.session_id)
            return self._lasting.mint(again)
        person = None if pairing.user_id is None else await self._people.find(pairing.user_id)
        if person is None or person.disabled:
            raise InvalidCredentials

        async def body(tx: WriteTx) -> tuple[Started, list[Revocation]]:
            started, revocations = await self._start(tx, person, origin)
            if not await store.bind_session(tx, pairing, started.session_id):
                raise _AnotherPollWasFirst  # takes the session back that was just made
            return started, revocations

        try:
            started, revocations = await self._db.write(body)
        except _AnotherPollWasFirst:
            return await self._token_of_the_first(pairing, origin)
        await self._sessions.announce(revocations)
        return self._sessions.mint(started)

    async def _token_of_the_first(self, pairing: Pairing, origin: Origin) -> str:
        current = await self._find(pairing.kind, pairing.public_key)
        if current is None or current.session_id is None:
            raise PairingNotFound
        return await self._token_for(current, origin)

    # --- parts ---

    async def sweep(self) -> int:
        """Removes requests that are over; how many."""
        now = self._clock.now_ms()
        return await in_batches(lambda: self._db.write(lambda tx: store.sweep(tx, now, SWEEP_BATCH)))

    async def delete_person(self, tx: WriteTx, user_id: str) -> None:
        """Forgets the answers of somebody who is being deleted."""
        await store.delete_person(tx, user_id)  # pyright: ignore[reportArgumentType]

    async def _count_creation(self, origin: Origin) -> None:
        if self._limiter is None or self._creations is None or origin.address is None:
            return
        tag = hmac.digest(self._limit_key, origin.address.encode(), "sha256")[:16].hex()
        decision = self._limiter.hit(f"key-new:{tag}", self._creations)
        if inspect.isawaitable(decision):
            decision = await decision
        if not decision.allowed:
            raise TooMany(retry_after_seconds=decision.retry_after_seconds)


def _key(text: str) -> str:
    """A public key of 32 bytes as lower-case hex.

    Raises:
        InvalidPublicKey: it is none.
    """
    try:
        raw = decode(text)
    except NotBase64:
        raise InvalidPublicKey from None
    if len(raw) != KEY_BYTES:
        raise InvalidPublicKey
    return raw.hex()


def _verified(public_key: str, challenge: str, signature: str) -> str:
    """The key in hex, if it has signed the challenge (RFC 8032, section 5.1.7).

    Raises:
        InvalidSignature: it has not.
    """
    try:
        key, message, proof = decode(public_key), decode(challenge), decode(signature)
        if len(key) != KEY_BYTES or len(proof) != SIGNATURE_BYTES:
            raise InvalidSignature
        Ed25519PublicKey.from_public_bytes(key).verify(proof, message)
    except (NotBase64, ValueError, WrongSignature):
        raise InvalidSignature from None
    return key.hex()
