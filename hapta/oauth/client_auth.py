"""`ClientAuthenticator`: which client sends this request? By exactly one method, and only by the one it registered.

Whatever is wrong with the credentials of a client, known or not, it is told the same, and the work done is the same
(contract identity, section 5; RFC 6749, section 2.3; RFC 7523).
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from typing import Any, NamedTuple, cast
from urllib.parse import unquote_to_bytes

from hapta.db.database import Database
from hapta.http.forms import Form
from hapta.http.requests import Request
from hapta.kit.clock import Clock
from hapta.kit.tokens import SKEW_SECONDS, BadToken
from hapta.oauth.clients import assertions
from hapta.oauth.clients.directory import ClientDirectory
from hapta.oauth.clients.models import Entry
from hapta.oauth.clients.service import secret_hash
from hapta.oauth.errors import InvalidClient, InvalidRequest
from hapta.oauth.issuer import Issuer
from hapta.oauth.jose import BadKey, Parsed, VerifyingKey, instant, parse
from hapta.oauth.models import AuthMethod, Client
from hapta.oauth.remote import DocumentUnavailable, RemoteDocuments

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
MAX_ASSERTION_SECONDS = 300
REFETCH_SECONDS = 60.0
"""A `jwks_uri` is asked again for an unknown key at most this often."""
MAX_JTI_CHARACTERS = 256
_MAX_CREDENTIAL_CHARACTERS = 4096
_NOBODY = hashlib.sha256(b"nobody has this secret").digest()


class _Presented(NamedTuple):
    """What a request brings."""

    method: AuthMethod
    client_id: str
    proof: str = ""


class ClientAuthenticator:
    """Authenticates clients at the token, revocation, introspection, PAR and device endpoints.

    Args:
        jwks: fetches `jwks_uri`; None: clients with one cannot authenticate.
    """

    def __init__(
        self,
        directory: ClientDirectory,
        db: Database,
        clock: Clock,
        issuer: Issuer,
        *,
        jwks: RemoteDocuments | None = None,
    ) -> None:
        self._directory = directory
        self._db = db
        self._clock = clock
        self._issuer = issuer
        self._jwks = jwks

    async def authenticate(self, request: Request, form: Form) -> Client:
        """The client that sends this request. Public clients only name themselves.

        Raises:
            InvalidRequest: two mechanisms at once, or parameters that contradict each other.
            InvalidClient: unknown, or its credentials do not count.
            BadForm: a parameter stands twice.
            Unavailable: the client could not be looked up.
        """
        presented = self._presented(request, form)
        entry = await self._directory.find_entry(presented.client_id)
        match presented.method:
            case "client_secret_basic" | "client_secret_post":
                proven = self._secret_counts(entry, presented.proof)
            case "private_key_jwt":
                proven = await self._assertion_counts(entry, presented, request)
            case "none":
                proven = True
        if entry is None or not proven or entry.client.auth_method != presented.method:
            # RFC 6749, section 5.2: the challenge goes with the scheme that was tried.
            raise InvalidClient(basic=presented.method == "client_secret_basic")
        self._directory.note_used(entry.client)
        return entry.client

    def _presented(self, request: Request, form: Form) -> _Presented:
        headers = request.header_values("authorization")
        client_id, secret = form.one("client_id"), form.one("client_secret")
        assertion, kind = form.one("client_assertion"), form.one("client_assertion_type")
        if len(headers) + (secret is not None) + (assertion is not None or kind is not None) > 1:
            raise InvalidRequest("The client authenticates by more than one method")  # RFC 6749, section 2.3
        if headers:
            named, proof = _basic(headers[0])
            if client_id is not None and client_id != named:
                raise InvalidRequest("client_id differs from the one in the Authorization header")
            return _Presented("client_secret_basic", named, proof)
        if assertion is not None or kind is not None:
            return _assertion(client_id, assertion, kind)
        if client_id is None:
            raise InvalidClient
        if secret is not None:
            return _Presented("client_secret_post", client_id, secret)
        return _Presented("none", client_id)

    def _secret_counts(self, entry: Entry | None, secret: str) -> bool:
        """Compares with every live secret, and always with at least one."""
        now = self._clock.now_ms()
        given = secret_hash(secret)
        live = [one.hash for one in entry.secrets if one.is_live(now)] if entry is not None else []
        matched = [hmac.compare_digest(given, known) for known in live or [_NOBODY]]
        return bool(live) and any(matched)

    # --- private_key_jwt (RFC 7523, section 3; contract identity, section 5) ---

    async def _assertion_counts(self, entry: Entry | None, presented: _Presented, request: Request) -> bool:
        try:
            parsed = parse(presented.proof)
            if entry is None or entry.client.auth_method != "private_key_jwt":
                return False
            client = entry.client
            claims = parsed.verified(await self._key_of(client, parsed))
            expires_at = self._judge(claims, client, request)
        except (BadToken, BadKey, DocumentUnavailable):
            return False
        jti: str = claims["jti"]
        jti_hash = hashlib.sha256(jti.encode("utf-8", "surrogatepass")).digest()
        # Remembered a little longer than it counts, so that the leeway of the clocks opens no gap.
        keep_until = round((expires_at + SKEW_SECONDS) * 1000)
        return await assertions.use(self._db, client.client_id, jti_hash, keep_until)

    async def _key_of(self, client: Client, parsed: Parsed) -> VerifyingKey:
        """The client's key that the assertion names.

        Raises:
            BadToken, BadKey, DocumentUnavailable: there is none.
        """
        if client.jwks is not None:
            return _choose(client.jwks, client, parsed)
        if client.jwks_uri is None or self._jwks is None:
            raise BadToken("the client has no keys")
        try:
            return _choose(await self._jwks.get(client.jwks_uri), client, parsed)
        except BadToken:
            # The client may have new keys since.
            fresh = await self._jwks.get(client.jwks_uri, younger_than_seconds=REFETCH_SECONDS)
            return _choose(fresh, client, parsed)

    def _judge(self, claims: Mapping[str, Any], client: Client, request: Request) -> float:
        """Checks the claims; when the assertion expires (Unix seconds)."""
        if claims.get("iss") != client.client_id or claims.get("sub") != client.client_id:
            raise BadToken("`iss` and `sub` are not the client")
        audience: object = claims.get("aud")
        named = cast("list[object]", audience) if isinstance(audience, list) else [audience]
        # Ourselves, and nobody beside us: an assertion that other servers take as well could be used against them.
        if len(named) != 1 or named[0] not in (self._issuer.url, self._issuer.at(request.path)):
            raise BadToken("`aud` is neither the issuer nor this endpoint")
        jti = claims.get("jti")
        if not isinstance(jti, str) or not 0 < len(jti) <= MAX_JTI_CHARACTERS:
            raise BadToken("`jti` is missing")
        now, expires_at = self._clock.now(), instant(claims, "exp")
        if not now - SKEW_SECONDS < expires_at <= now + MAX_ASSERTION_SECONDS + SKEW_SECONDS:
            raise BadToken("expired, or good for more than five minutes")
        for name in ("iat", "nbf"):
            if name in claims and instant(claims, name) > now + SKEW_SECONDS:
                raise BadToken(f"`{name}` lies in the future")
        if "iat" in claims and expires_at - instant(claims, "iat") > MAX_ASSERTION_SECONDS:
            raise BadToken("good for more than five minutes")
        return expires_at


def _choose(jwks: Mapping[str, Any], client: Client, parsed: Parsed) -> VerifyingKey:
    """The key by its `kid` or, when the assertion names none, the only one that fits."""
    keys: object = jwks.get("keys")
    if not isinstance(keys, list):
        raise BadToken("no set of keys")
    kid, alg = parsed.header.get("kid"), parsed.header.get("alg")
    if client.auth_signing_alg is not None and alg != client.auth_signing_alg:
        raise BadToken("another algorithm than the one that was registered")
    fitting: list[VerifyingKey] = []
    for jwk in cast("list[object]", keys):
        if not isinstance(jwk, dict):
            continue
        members = cast("dict[str, Any]", jwk)
        if kid is not None and members.get("kid") != kid:
            continue
        try:
            key = VerifyingKey.from_jwk(members, client.auth_signing_alg)
            if alg == "PS256" and "alg" not in members and members.get("kty") == "RSA":
                key = VerifyingKey.from_jwk(members, "PS256")
        except BadKey:
            continue
        if key.alg == alg:
            fitting.append(key)
    if len(fitting) != 1:
        raise BadToken("no key, or more than one, fits")
    return fitting[0]


def _basic(header: str) -> tuple[str, str]:
    """Id and secret of an Authorization header, each form-url-decoded after base64 (RFC 6749, section 2.3.1).

    Raises:
        InvalidClient: another scheme, or no credentials.
    """
    scheme, _, credentials = header.partition(" ")
    if scheme.lower() != "basic" or len(header) > _MAX_CREDENTIAL_CHARACTERS:
        raise InvalidClient(basic=True)
    try:
        text = b64decode(credentials.strip(), validate=True)
    except (Base64Error, ValueError):
        raise InvalidClient(basic=True) from None
    client_id, colon, secret = text.partition(b":")
    if not colon:
        raise InvalidClient(basic=True)
    try:
        return _form_decoded(client_id), _form_decoded(secret)
    except UnicodeDecodeError:
        raise InvalidClient(basic=True) from None


def _form_decoded(part: bytes) -> str:
    return unquote_to_bytes(part.replace(b"+", b" ")).decode()


def _assertion(client_id: str | None, assertion: str | None, kind: str | None) -> _Presented:
    if kind != ASSERTION_TYPE or assertion is None:
        raise InvalidClient("client_assertion and client_assertion_type go together, and the type is " + ASSERTION_TYPE)
    # Read before it is verified, only to know whose keys to verify with; the claims are judged after that.
    try:
        subject = parse(assertion).unproven("sub")
    except BadToken:
        raise InvalidClient from None
    if not isinstance(subject, str) or (client_id is not None and client_id != subject):
        raise InvalidClient
    return _Presented("private_key_jwt", subject, assertion)
