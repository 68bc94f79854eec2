"""How the resource server judges tokens: by itself or by asking, with the same outcome for each of 10,000 tokens, also after
whatever ends them; and what it does while the auth server is away (contract identity, sections 1.3, 1.11, 4.5, 4.6 and 32.11)."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hapta.bus.memory import MemoryBus
from hapta.identity.internal.checks import DelegateCheck, LocalCheck
from hapta.identity.internal.feed import RevocationFeed
from hapta.identity.internal.schemas import Pulled
from hapta.identity.internal.service import AuthAnswers, DirectAuthSide
from hapta.identity.internal.tokens import Finding, InternalTokens
from hapta.identity.models import NewPerson, Origin, Person, SignedIn
from hapta.identity.session_tokens import SessionTokens
from hapta.kit.access import Caller
from hapta.kit.errors import InvalidToken, Unavailable
from hapta.kit.ids import RandomIds
from hapta.kit.tokens import Hs256Key, sign
from hapta.oauth.verifier import EitherVerifier
from tests.oauth.grants_house import ISSUER, SECRET, GrantsHouse, Visitor, grants_house

SIZE = 10_000


class Line(DirectAuthSide):
    """The way to the auth server, that a test may cut; it counts who is asked for."""

    def __init__(self, answers: AuthAnswers, tokens: InternalTokens) -> None:
        super().__init__(answers, tokens)
        self.cut = False
        self.asked = 0

    async def authenticate(self, token: str) -> Finding:
        self.asked += 1
        if self.cut:
            raise Unavailable
        return await super().authenticate(token)

    async def pull(self, since: int | None) -> Pulled:
        if self.cut:
            raise Unavailable
        return await super().pull(since)


@dataclass
class Resource:
    """A resource server's checks before a real auth side."""

    house: GrantsHouse
    line: Line
    feed: RevocationFeed
    local: LocalCheck
    delegate: DelegateCheck

    async def person(self, email: str) -> Person:
        return await self.house.people.create(NewPerson(email=email, email_verified=True))

    async def session(self, person: Person, *, token_only: bool = False) -> SignedIn:
        sessions = self.house.sessions
        started, revocations = await self.house.db.write(
            lambda tx: sessions.start(tx, person, Origin(), amr=("pwd",), token_only=token_only)
        )
        await sessions.announce(revocations)
        return sessions.signed_in(person, started)

    async def pass_time(self, **moved: float) -> None:
        """Moves the clock, and lets both servers look once, as they do each second."""
        await self.house.pass_time(**moved)
        await self.feed.pull_once()


@pytest.fixture
async def resource(database_url: str, tmp_path: Path) -> AsyncIterator[Resource]:
    async with grants_house(database_url, tmp_path) as house:
        clock, ids = house.clock, RandomIds()
        verifier = EitherVerifier(house.sessions, house.access_tokens)

        async def kids() -> Sequence[str]:
            return [str(key["kid"]) for key in (await house.keys.jwks())["keys"]]

        auth, own = (InternalTokens(SECRET, clock, ids, side) for side in ("auth", "resource"))
        line = Line(AuthAnswers(house.sessions, verifier, auth, house.db, clock, kids), own)
        feed = RevocationFeed(line, MemoryBus(), clock)
        local = LocalCheck(SessionTokens(SECRET, clock, ids), line, feed, clock)
        delegate = DelegateCheck(line, feed, clock)
        await house.watch.open()
        await feed.open()
        yield Resource(house, line, feed, local, delegate)
        await feed.close()
        await house.watch.close()


async def outcome(check: LocalCheck | DelegateCheck, token: str) -> Caller | type[Exception]:
    """The caller or the error; when a login was is compared in whole seconds, as tokens carry it."""
    try:
        caller = check.cached(token) or await check.verify(token)
    except (InvalidToken, Unavailable) as error:
        return type(error)
    return caller._replace(authenticated_at=float(int(caller.authenticated_at)))


# --- the differential test ---


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def decoded(part: str) -> dict[str, Any]:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def variants(tokens: Sequence[str], seed: int) -> list[str]:
    """Tokens, and everything that somebody may make of them: with no key, with the right one, with the wrong one."""
    rng = random.Random(seed)
    key, foreign = Hs256Key.for_access_tokens(SECRET), Hs256Key.for_access_tokens("another secret that is long enough")
    internal = InternalTokens(SECRET, _Still(), RandomIds(), "resource")
    odd: list[Any] = [None, True, "", "x", 0, -1, 2**60, 2**70, "4000000000", [], {}, [ISSUER], ["a", "b"]]

    def flipped(token: str) -> str:
        at = rng.randrange(len(token))
        return token[:at] + rng.choice("ABCabc012-_.=%\n é") + token[at + 1 :]

    def cut(token: str) -> str:
        return token[: rng.randrange(len(token))]

    def grown(token: str) -> str:
        return token + rng.choice(["=", ".", "A", ".x", " ", "A" * 9000])

    def swapped(token: str) -> str:
        one, other = token.split("."), rng.choice(tokens).split(".")
        at = rng.randrange(3)
        return ".".join([*one[:at], other[at], *one[at + 1 :]])

    def header(token: str) -> str:
        first, *rest = token.split(".")
        changed = {
            **decoded(first),
            rng.choice(["alg", "typ", "kid", "jku", "crit", "jwk"]): rng.choice(
                ["none", "ES256", "HS256", "at+jwt", "", {}]
            ),
        }
        return ".".join([encoded(changed), *rest])

    def claims_of(token: str) -> dict[str, Any]:
        return decoded(token.split(".")[1])

    def resigned(token: str) -> str:
        """By the right key, with members of the wrong form: what only a defect of ours could bring about."""
        name = rng.choice(["exp", "iat", "nbf", "type", "sub", "iss", "aud", "sid", "gen", "tv"])
        claims = claims_of(token)
        value = rng.choice(odd)
        if name in ("gen", "tv") and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # another number is another token, which the holder of the key may make
        if name == "sid" and isinstance(value, str) and value:
            value = 7
        if name == "sub" and isinstance(value, str) and value:
            value = 7
        return sign({**claims, name: value}, key)

    def forged(token: str) -> str:
        return sign(claims_of(token), foreign)

    def none(token: str) -> str:
        return f"{encoded({'alg': 'none', 'typ': 'at+jwt'})}.{token.split('.')[1]}."

    def of_the_other_server(token: str) -> str:
        return rng.choice(
            [
                internal.sign_call("POST", "/x", b""),
                internal.sign_relay("GET", "/x", "::1"),
                internal.sign_finding(token, _ANY, 0),
            ]
        )

    def same(token: str) -> str:
        return token

    makers: list[Callable[[str], str]] = [
        same,
        flipped,
        cut,
        grown,
        swapped,
        header,
        resigned,
        forged,
        none,
        of_the_other_server,
    ]
    weights = [6, 4, 1, 1, 2, 2, 4, 1, 1, 1]
    first_party = [token for token in tokens if decoded(token.split(".")[0])["alg"] == "HS256"]
    made: list[str] = []
    for _ in range(SIZE):
        maker = rng.choices(makers, weights)[0]
        made.append(maker(rng.choice(first_party if maker in (resigned, forged) else tokens)))
    return made


def flipped_tokens(tokens: Sequence[str], rng: random.Random, count: int) -> list[str]:
    """Tokens with one letter of each changed to another of base64url."""
    letters = "ABCDEFGHabcdefgh0123456789-_"
    made: list[str] = []
    for _ in range(count):
        token = rng.choice(tokens)
        at = rng.randrange(len(token))
        made.append(token[:at] + rng.choice(letters) + token[at + 1 :])
    return made


class _Still:
    """Tokens of the other server are made before the clock of the test begins to move."""

    def now(self) -> float:
        return 1_893_456_000.0

    def now_ms(self) -> int:
        return 1_893_456_000_000

    def monotonic(self) -> float:
        return 0.0


_ANY = Caller("u", "s", 1, None, 2e9)  # type: ignore[arg-type]


async def test_both_ways_come_to_the_same_for_ten_thousand_tokens_whatever_happens_meanwhile(
    resource: Resource,
) -> None:
    house = resource.house
    people = [await resource.person(f"p{number}@example.org") for number in range(6)]
    keyed = [await resource.session(person) for person in people for _ in range(2)]
    plain = [await resource.session(person, token_only=True) for person in people]
    app, machine, doomed = await house.app(), await house.app("machine"), await house.app("public")
    granted = []
    for signed_in in keyed[:8]:
        visitor = Visitor(signed_in.person, signed_in.session_id)
        granted.append((await house.tokens(app, visitor))["access_token"])
        granted.append((await house.tokens(doomed, visitor))["access_token"])
    own = await house.token(machine, grant_type="client_credentials", scope="posts:read")
    tokens = [one.access_token for one in (*keyed, *plain)] + granted + [own.json()["access_token"]]
    await resource.pass_time(seconds=1)
    rolled = await house.sessions.refresh(keyed[0].refresh_token, Origin())
    tokens.append(rolled.access_token)
    corpus = variants(tokens, seed=7)
    assert len(corpus) == SIZE
    accepted = 0

    async def compare(sample: Sequence[str]) -> int:
        good = 0
        for token in sample:
            local, delegate = await outcome(resource.local, token), await outcome(resource.delegate, token)
            if local != delegate:
                print([decoded(part) for part in token.split(".")[:2]], sample.index(token))
            assert local == delegate, (token, local, delegate)
            good += isinstance(local, Caller)
        return good

    accepted = await compare(corpus)
    assert SIZE // 10 < accepted < SIZE // 2
    still = await compare(tokens)
    assert still == len(tokens) - 1  # all but the machine's, which stands for nobody

    async def after(**moved: float) -> int:
        await resource.pass_time(**moved)
        return await compare([*tokens, *random.Random(8).sample(corpus, 300)][: len(tokens)])

    await house.sessions.revoke(people[1].user_id, keyed[2].session_id)
    ended = await after(seconds=1)
    assert ended < still
    await house.people.set_disabled(people[2].user_id, True)
    banned = await after(seconds=1)
    assert banned < ended
    await house.people.set_roles(people[3].user_id, ["user", "admin"])
    await house.clients.delete(doomed.id)
    gone = await after(seconds=1)
    assert gone < banned
    tokens.append((await house.sessions.refresh(keyed[8].refresh_token, Origin())).access_token)
    await after(seconds=9)
    assert await outcome(resource.local, keyed[8].access_token) != InvalidToken
    await after(seconds=2)
    assert (
        await outcome(resource.local, keyed[8].access_token) is InvalidToken
    )  # an old key: it ends its session as well
    await after(minutes=5)
    await after(minutes=6)
    for kid in [key.kid for key in await house.keys.list_keys()]:
        await house.keys.revoke(kid)
    await after(seconds=1)
    await after(hours=3)


# --- what each of them is for ---


async def test_a_short_token_is_judged_without_asking_anybody(resource: Resource) -> None:
    signed_in = await resource.session(await resource.person("ada@example.org"))
    for _ in range(3):
        caller = await resource.local.verify(signed_in.access_token)
        assert (caller.user_id, caller.roles, caller.amr) == (
            signed_in.person.user_id, frozenset({"user"}), ("pwd",),
        )  # fmt: skip
    assert resource.line.asked == 0


async def test_what_a_long_token_does_not_say_is_asked_once_a_minute(resource: Resource) -> None:
    signed_in = await resource.session(await resource.person("ada@example.org"), token_only=True)
    for _ in range(5):
        await resource.local.verify(signed_in.access_token)
    assert resource.line.asked == 1
    await resource.pass_time(seconds=61)
    for _ in range(5):
        assert (await resource.local.verify(signed_in.access_token)).roles == {"user"}
    assert resource.line.asked == 2


async def test_while_the_auth_server_is_away_local_serves_what_was_issued_and_delegate_nothing(
    resource: Resource,
) -> None:
    person = await resource.person("ada@example.org")
    short, long = await resource.session(person), await resource.session(person, token_only=True)
    unseen, ended = await resource.session(person, token_only=True), await resource.session(person)
    app = await resource.house.app()
    granted = (await resource.house.tokens(app, Visitor(person, short.session_id)))["access_token"]
    for token in (long.access_token, granted, short.access_token):
        await resource.local.verify(token)
        await resource.delegate.verify(token)
    await resource.house.sessions.revoke(person.user_id, ended.session_id)
    await resource.feed.pull_once()
    resource.line.cut = True
    resource.house.clock.advance(minutes=5)
    for token in (short.access_token, long.access_token, granted):
        assert (await resource.local.verify(token)).user_id == person.user_id
        with pytest.raises(Unavailable):
            await resource.delegate.verify(token)
    caller = await resource.local.verify(unseen.access_token)
    assert (caller.user_id, caller.roles, caller.authenticated_at) == (person.user_id, frozenset(), 0.0)
    with pytest.raises(InvalidToken):
        await resource.local.verify(ended.access_token)
    resource.house.clock.advance(hours=5)
    assert (await resource.local.verify(long.access_token)).user_id == person.user_id
    with pytest.raises(InvalidToken):
        await resource.local.verify(short.access_token)


async def test_a_resource_server_that_never_heard_the_auth_server_judges_nothing(resource: Resource) -> None:
    signed_in = await resource.session(await resource.person("ada@example.org"))
    resource.line.cut = True
    clock = resource.house.clock
    feed = RevocationFeed(resource.line, MemoryBus(), clock)
    await feed.open()
    for check in (
        LocalCheck(SessionTokens(SECRET, clock, RandomIds()), resource.line, feed, clock),
        DelegateCheck(resource.line, feed, clock),
    ):
        with pytest.raises(Unavailable):
            await check.verify(signed_in.access_token)
    await feed.close()


async def test_after_a_silence_longer_than_revocations_are_kept_old_facts_are_asked_anew(resource: Resource) -> None:
    person = await resource.person("ada@example.org")
    signed_in = await resource.session(person, token_only=True)
    await resource.local.verify(signed_in.access_token)
    resource.line.cut = True
    await resource.house.sessions.revoke(person.user_id, signed_in.session_id)
    resource.house.clock.advance(hours=3)
    await resource.house.sessions.sweep()
    assert (await resource.local.verify(signed_in.access_token)).user_id == person.user_id
    resource.line.cut = False
    await resource.house.watch.poll_once()
    await resource.feed.pull_once()
    with pytest.raises(InvalidToken):
        await resource.local.verify(signed_in.access_token)


async def test_whoever_hangs_on_the_feed_hears_once_of_each_session_that_ends(resource: Resource) -> None:
    heard: list[tuple[str, str]] = []
    resource.feed.on_revoked(lambda user, session: heard.append((user, session)))
    person = await resource.person("ada@example.org")
    signed_in = await resource.session(person)
    await resource.house.sessions.revoke(person.user_id, signed_in.session_id)
    for _ in range(3):
        await resource.pass_time(seconds=1)
    assert heard == [(person.user_id, signed_in.session_id)]


async def test_an_old_key_seen_at_the_resource_server_ends_its_session(resource: Resource) -> None:
    person = await resource.person("ada@example.org")
    signed_in = await resource.session(person)
    await resource.local.verify(signed_in.access_token)
    rolled = await resource.house.sessions.refresh(signed_in.refresh_token, Origin())
    await resource.pass_time(seconds=11)
    with pytest.raises(InvalidToken):
        await resource.local.verify(signed_in.access_token)
    await resource.pass_time(seconds=1)
    with pytest.raises(InvalidToken):
        await resource.local.verify(rolled.access_token)
    assert await resource.house.events("auth.session.replay")
