"""The token side of the authorization server behind the real edge, on a real database, with a clock moved by hand.

Nothing of ours is replaced: people, sessions, clients, keys and events are the real services; only consent pages are left out, and
a code is issued as they would issue it.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec

from hapta.bus.memory import MemoryBus
from hapta.db.connect import connect
from hapta.db.database import Database, WriteTx
from hapta.db.migrate import migrate
from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.edge import Edge
from hapta.http.limits import LimitClass, Limits
from hapta.http.metrics import Metrics
from hapta.identity.audit.chain import AuditKeys
from hapta.identity.audit.service import AuditLog
from hapta.identity.event_log import EventRecorder
from hapta.identity.models import NewPerson, Origin, Person
from hapta.identity.passwords import Passwords
from hapta.identity.people_store import LocalIdentityStore
from hapta.identity.revocations import RevocationWatch
from hapta.identity.sessions import SessionService
from hapta.identity.webhooks.queue import WebhookQueue
from hapta.kit.access import SessionId, UserId
from hapta.kit.clock import SystemClock
from hapta.kit.ids import RandomIds
from hapta.kit.ratelimit import MemoryLimiter, Rate
from hapta.kit.secrets import derive_key
from hapta.oauth import introspection, revocation
from hapta.oauth.access_tokens import AccessTokens
from hapta.oauth.client_auth import ClientAuthenticator
from hapta.oauth.clients.directory import ClientDirectory
from hapta.oauth.clients.models import NewClient
from hapta.oauth.clients.service import Clients
from hapta.oauth.codes.service import Codes
from hapta.oauth.consents.service import Consents
from hapta.oauth.device.service import Devices
from hapta.oauth.dpop import Dpop
from hapta.oauth.families.service import Families
from hapta.oauth.id_tokens import IdTokens
from hapta.oauth.introspection import TokenIntrospection
from hapta.oauth.issuer import Issuer
from hapta.oauth.jose import SigningKey, encode
from hapta.oauth.keys.sealing import key_sealer
from hapta.oauth.keys.service import SigningKeys
from hapta.oauth.models import DEVICE_GRANT, Authorization, Client
from hapta.oauth.resources import Resources
from hapta.oauth.revocation import TokenRevocation
from hapta.oauth.scopes import Scopes
from hapta.oauth.subjects import Subjects
from hapta.oauth.token import routes as token_routes
from hapta.oauth.token.authorization_code import AuthorizationCodeGrant
from hapta.oauth.token.client_credentials import ClientCredentialsGrant
from hapta.oauth.token.device_code import DeviceCodeGrant
from hapta.oauth.token.dispatch import TokenService
from hapta.oauth.token.minting import Minter
from hapta.oauth.token.refresh_token import RefreshTokenGrant
from hapta.settings import DatabaseSettings, IdentitySettings, OAuthSettings, ServerSettings
from hapta.testing.clock import FakeClock

SECRET = "a secret that only tests know, long enough"
ISSUER = "https://id.example"
REDIRECT_URI = "https://app.example/callback"
API = "https://api.example/v1"
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class App:
    """A registered client with its secret."""

    client: Client
    secret: str | None

    @property
    def id(self) -> str:
        return self.client.client_id

    def auth(self) -> dict[str, str]:
        """How it authenticates, as headers."""
        if self.secret is None:
            return {}
        return {"authorization": "Basic " + b64encode(f"{self.id}:{self.secret}".encode()).decode()}


@dataclass(frozen=True)
class Visitor:
    """A person with a session."""

    person: Person
    session_id: str


@dataclass
class GrantsHouse:
    """One worker."""

    db: Database
    clock: FakeClock
    people: LocalIdentityStore
    sessions: SessionService
    watch: RevocationWatch
    clients: Clients
    directory: ClientDirectory
    keys: SigningKeys
    codes: Codes
    consents: Consents
    devices: Devices
    families: Families
    access_tokens: AccessTokens
    audit: AuditLog
    settings: OAuthSettings
    http: httpx.AsyncClient

    # --- who takes part ---

    async def app(self, type_: str = "confidential", **metadata: Any) -> App:
        grants = ["authorization_code", "refresh_token", DEVICE_GRANT]
        if type_ == "device":
            grants.remove("authorization_code")
        metadata.setdefault("grant_types", ["client_credentials"] if type_ == "machine" else grants)
        if type_ in ("confidential", "public"):
            metadata.setdefault("redirect_uris", [REDIRECT_URI])
        if type_ == "machine":
            metadata.setdefault("scopes", ["posts:read", "posts:write"])
        else:
            metadata.setdefault("scopes", ["openid", "profile", "offline_access", "posts:read", "posts:write"])
        further = {name: metadata.pop(name) for name in [*metadata] if name not in NewClient.__struct_fields__}
        created = await self.clients.create(NewClient(name="An app", type=cast("Any", type_), **metadata))
        if further:
            changed = msgspec.structs.replace(created.client, **further)
            return App((await self.clients.replace(changed)).client, created.secret)
        return App(created.client, created.secret)

    async def visitor(self, email: str = "ada@example.org") -> Visitor:
        person = await self.people.find_by_login(email) or await self.people.create(
            NewPerson(email=email, email_verified=True)
        )
        started, revocations = await self.db.write(lambda tx: self.sessions.start(tx, person, Origin(), amr=("pwd",)))
        await self.sessions.announce(revocations)
        return Visitor(person, started.session_id)

    # --- what they do ---

    def authorization(self, app: App, visitor: Visitor, **given: Any) -> Authorization:
        """What the visitor allows the app, as the authorization endpoint puts it."""
        allowed = Authorization(
            client_id=app.id,
            user_id=visitor.person.user_id,
            session_id=cast("Any", visitor.session_id),
            scopes=("posts:read", "posts:write"),
            resources=(ISSUER,),
            redirect_uri=REDIRECT_URI,
            redirect_uri_sent=True,
            code_challenge=CHALLENGE,
            nonce=None,
            dpop_jkt=None,
            authenticated_at=self.clock.now_ms(),
            amr=("pwd",),
            acr=None,
            wants_auth_time=False,
            person_version=visitor.person.version,
        )
        return allowed._replace(**given)

    async def code(self, app: App, visitor: Visitor, **given: Any) -> str:
        """A code, as consent would have issued it."""
        allowed = self.authorization(app, visitor, **given)
        return await self.db.write(lambda tx: self.codes.issue(tx, allowed))

    async def post(
        self,
        path: str,
        app: App | None,
        form: Mapping[str, Any] | Sequence[tuple[str, str]],
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """A form, sent as the app."""
        pairs = [*(form.items() if isinstance(form, Mapping) else form)]
        if app is not None and app.secret is None:
            pairs.append(("client_id", app.id))
        sent = {"content-type": FORM, **(app.auth() if app is not None else {}), **(headers or {})}
        body = str(httpx.QueryParams([(name, value) for name, value in pairs if value is not None]))
        return await self.http.post(path, content=body, headers=sent)

    async def token(self, app: App | None, headers: Mapping[str, str] | None = None, **form: Any) -> httpx.Response:
        """A token request."""
        return await self.post("/oauth/token", app, form, headers)

    async def redeem(
        self, app: App, code: str, headers: Mapping[str, str] | None = None, **form: Any
    ) -> httpx.Response:
        """A token request with a code, all of it right unless the test says otherwise."""
        form = {"redirect_uri": REDIRECT_URI, "code_verifier": VERIFIER, **form}
        return await self.token(app, headers, grant_type="authorization_code", code=code, **form)

    async def tokens(
        self, app: App, visitor: Visitor, headers: Mapping[str, str] | None = None, **given: Any
    ) -> dict[str, Any]:
        """The answer of a whole authorization."""
        answer = await self.redeem(app, await self.code(app, visitor, **given), headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def refresh(
        self, app: App, token: str, headers: Mapping[str, str] | None = None, **form: Any
    ) -> httpx.Response:
        return await self.token(app, headers, grant_type="refresh_token", refresh_token=token, **form)

    async def introspect(self, asker: App, token: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        return await self.post("/oauth/introspect", asker, {"token": token}, headers)

    async def is_active(self, app: App, token: str) -> bool:
        answer = await self.introspect(app, token)
        assert answer.status_code == 200, answer.text
        if answer.json()["active"] is not True:
            assert answer.json() == {"active": False}
        return answer.json()["active"]

    async def pass_time(self, **moved: float) -> None:
        """Moves the clock, and lets the watch look once, as it does each second."""
        self.clock.advance(**moved)
        await self.watch.poll_once()

    async def heads(self) -> list[tuple[Any, ...]]:
        """All living families: id, generation and hash of the head."""
        return await self.db.read(
            lambda tx: tx.fetch_all("SELECT id, generation, head_hash FROM auth_families WHERE revoked_at IS NULL")
        )

    async def events(self, type_: str) -> list[tuple[Any, ...]]:
        """Reasons and clients of the recorded events of a type."""
        return await self.db.read(
            lambda tx: tx.fetch_all("SELECT reason, client_id FROM auth_events WHERE type = :type", type=type_)
        )


class _NobodyWatches:
    """No client here wants to hear of a session's end."""

    async def watch(self, tx: WriteTx, client: Client, user_id: UserId, session_id: SessionId) -> None:
        return


class DpopKey:
    """A client's key, and the proofs that it makes (RFC 9449, section 4)."""

    def __init__(self, clock: FakeClock) -> None:
        self._key = SigningKey.generate("ES256")
        self._clock = clock
        self._count = 0

    @property
    def jkt(self) -> str:
        return self._key.kid

    def proof(self, path: str = "/oauth/token", *, nonce: str | None = None) -> dict[str, str]:
        """The header of a proof for a POST to this path."""
        self._count += 1
        header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": self._key.jwk}
        claims = {"jti": f"proof-{self._count}", "htm": "POST", "htu": ISSUER + path, "iat": int(self._clock.now())}
        if nonce is not None:
            claims["nonce"] = nonce
        signed = f"{encode(msgspec.json.encode(header))}.{encode(msgspec.json.encode(claims))}"
        return {"dpop": f"{signed}.{encode(self._key.sign_bytes(signed.encode()))}"}


def challenge_of(verifier: str) -> str:
    return encode(hashlib.sha256(verifier.encode()).digest())


@asynccontextmanager
async def grants_house(
    database_url: str, folder: Path, *, clock: FakeClock | None = None, limit: str | None = None, **settings: Any
) -> AsyncIterator[GrantsHouse]:
    """A worker over this database.

    Args:
        limit: a rate for the token endpoint, as the settings write it; without one the limits are off.
        settings: of oauth.
    """
    clock, ids, bus = clock or FakeClock(), RandomIds(), MemoryBus()
    oauth, identity = replace(OAuthSettings(), **settings), IdentitySettings(argon2_memory_kib=8, argon2_iterations=1)
    db = await connect(DatabaseSettings(url=database_url), folder, SystemClock())
    await migrate(db, SystemClock())
    issuer, passwords = Issuer(ISSUER), Passwords(identity)
    people = LocalIdentityStore(db, clock, ids, passwords, identity)
    audit = AuditLog(db, clock, ids, AuditKeys(SECRET), SECRET)
    events = EventRecorder(audit, WebhookQueue(db, clock, ids))
    sessions = SessionService(db, bus, clock, ids, identity, SECRET, people, events=events)
    people.on_change(sessions.settle)
    watch = RevocationWatch(sessions, db, bus, clock)
    keys = SigningKeys(db, bus, clock, key_sealer(SECRET), events, issuer, oauth)
    directory = ClientDirectory(db, bus, clock)
    scopes, resources = Scopes(roles=("reader=posts:read",)), Resources(issuer, (API,))
    authenticator = ClientAuthenticator(directory, db, clock, issuer)
    dpop = Dpop(db, clock, issuer, SECRET, needs_nonce=oauth.dpop_nonce)
    subjects = Subjects(derive_key(SECRET, "subject"))
    codes = Codes(db, clock, ids, oauth)
    families = Families(db, clock, ids, SECRET, oauth, codes, sessions.marks, sessions.announce, events)
    sessions.on_end(families.sessions_ended)
    sessions.on_change(families.person_changed)
    clients = Clients(
        db, clock, ids, directory, scopes, events, on_deleted=[families.revoke_client], announce=sessions.announce
    )
    consents = Consents(
        db, clock, oauth, directory, scopes, families, events, sessions.announce, derive_key(SECRET, "audit")
    )
    devices = Devices(
        db,
        clock,
        ids,
        oauth,
        directory,
        people,
        scopes,
        resources,
        consents,
        _NobodyWatches(),
        sessions.announce,
        derive_key(SECRET, "otp"),
    )
    access_tokens = AccessTokens(
        keys,
        families,
        directory,
        sessions.marks,
        clock,
        ids,
        oauth,
        issuer,
        believed=lambda: sessions.cache.trusted,
    )
    minter = Minter(access_tokens, IdTokens(keys, clock, oauth, issuer), resources)
    tokens = TokenService(
        {
            "authorization_code": AuthorizationCodeGrant(
                db, codes, families, minter, subjects, events, sessions.announce
            ),
            "refresh_token": RefreshTokenGrant(families, minter),
            "client_credentials": ClientCredentialsGrant(access_tokens, resources),
            DEVICE_GRANT: DeviceCodeGrant(db, devices, families, minter, subjects),
        }
    )
    revoking = TokenRevocation(db, keys, families, sessions.marks, sessions.announce, events, oauth)
    inspecting = TokenIntrospection(access_tokens, families, resources, keys, clock, issuer)
    endpoints = [
        *token_routes.routes(tokens, authenticator, dpop),
        *revocation.routes(revoking, authenticator),
        *introspection.routes(inspecting, authenticator),
    ]
    classes = {
        name: LimitClass(name, Rate.parse(limit or "600/60:200"), "address")
        for name in ("default", "token", "introspect")
    }
    limiter = MemoryLimiter(clock.monotonic) if limit else None
    edge = Edge(
        ServerSettings(),
        access_tokens,
        Limits(limiter, classes),
        Cors(["https://listed.example"]),
        Metrics(),
        clock,
        None,
    )
    transport = httpx.ASGITransport(cast("Any", Application(endpoints, edge)), client=("192.0.2.1", 50_000))
    try:
        await keys.open()
        await directory.open()
        await watch.open()
        async with httpx.AsyncClient(transport=transport, base_url=ISSUER) as http:
            yield GrantsHouse(
                db=db,
                clock=clock,
                people=people,
                sessions=sessions,
                watch=watch,
                clients=clients,
                directory=directory,
                keys=keys,
                codes=codes,
                consents=consents,
                devices=devices,
                families=families,
                access_tokens=access_tokens,
                audit=audit,
                settings=oauth,
                http=http,
            )
    finally:
        await watch.close()
        await sessions.close()
        await directory.close()
        await keys.close()
        await passwords.close()
        await db.close()
