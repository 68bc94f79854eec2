"""Third-party access tokens (RFC 9068; contract identity, sections 4.4 to 4.6): minted here, and judged when they come back.

A token is a signed JWT that names its family (`gid`). It counts while its signature holds, its family is alive and no mark stands
against it. What was judged a moment ago is remembered, and held against the marks at every use.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, Protocol

from hapta.kit.access import Caller, SessionId
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken, Unavailable
from hapta.kit.ids import Ids
from hapta.kit.tokens import ACCESS_TYP, ACCESS_TYPE, BadToken, Claims
from hapta.oauth.families.models import Family
from hapta.oauth.families.ports import Marks
from hapta.oauth.families.service import Families
from hapta.oauth.issuer import Issuer
from hapta.oauth.keys.service import SigningKeys
from hapta.oauth.models import Client
from hapta.settings import OAuthSettings

RECHECK_SECONDS = 60.0
"""How long a judgement is believed while nothing speaks against it (contract identity, section 4.5)."""


class Clients(Protocol):
    """Registered clients (`ClientDirectory`)."""

    async def find(self, client_id: str) -> Client | None: ...


class Minted(NamedTuple):
    """A fresh access token."""

    token: str
    expires_in_seconds: int


class Judgement(NamedTuple):
    """A token that counts now, whatever it is for."""

    claims: Claims
    client_id: str
    family: Family | None
    """None for a client's own token (`client_credentials`), which has no user."""
    dpop_jkt: str | None
    audience: frozenset[str]
    scopes: frozenset[str]
    """Of the token, as far as the client still may have them."""
    subjects: tuple[str, ...]
    """What a mark may stand against (`Marks.revoked`)."""

    @property
    def caller(self) -> Caller:
        """Who calls with it.

        Raises:
            InvalidToken: it stands for no user.
        """
        family = self.family
        if family is None:
            raise InvalidToken
        return Caller(
            user_id=family.user_id,
            session_id=SessionId(family.session_id),
            generation=0,
            device_id=None,
            expires_at=float(self.claims["exp"]),
            scopes=self.scopes,
            client_id=self.client_id,
            authenticated_at=family.authenticated_at / 1000,
            amr=family.amr,
        )


class AccessTokens:
    """Mints and judges access tokens. Implements `kit.access.Verifier` for this server's own resources.

    Args:
        audiences: what a token has to be for to count at this server's own endpoints; the issuer when left out.
        believed: whether revocations are known to reach this worker now; while they are not, nothing remembered counts.
        max_cached: judgements to remember.
    """

    def __init__(
        self,
        keys: SigningKeys,
        families: Families,
        clients: Clients,
        marks: Marks,
        clock: Clock,
        ids: Ids,
        settings: OAuthSettings,
        issuer: Issuer,
        *,
        believed: Callable[[], bool],
        audiences: Collection[str] = (),
        max_cached: int = 50_000,
    ) -> None:
        self._keys = keys
        self._families = families
        self._clients = clients
        self._marks = marks
        self._clock = clock
        self._ids = ids
        self._settings = settings
        self._issuer = issuer.url
        self._audiences = frozenset(audiences) or frozenset((issuer.url,))
        self._believed = believed
        self._cache = _Cache(clock, max_cached)
        keys.on_revoked(lambda kids: self._cache.clear())

    # --- minting ---

    def mint(
        self,
        client: Client,
        *,
        scopes: Sequence[str],
        audience: Sequence[str],
        family: Family | None,
        dpop_jkt: str | None = None,
    ) -> Minted:
        """A token for a client.

        Args:
            scopes: what it may be used for; the caller has narrowed them to the family's and the client's own.
            audience: the resources it is for (RFC 8707).
            family: of the authorization behind it; None for the client's own token.
            dpop_jkt: thumbprint of the key that it is bound to (RFC 9449, section 6).
        """
        now = int(self._clock.now())
        life = self._settings.access_token_seconds
        if family is not None:
            life = max(1, min(life, family.absolute_expires_at // 1000 - now))
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "sub": client.client_id if family is None else family.subject,
            "aud": audience[0] if len(audience) == 1 else list(audience),
            "client_id": client.client_id,
            "type": ACCESS_TYPE,
            "iat": now,
            "nbf": now,
            "exp": now + life,
            "jti": self._ids.uuid(),
            "scope": " ".join(scopes),
        }
        if family is not None:
            claims["gid"] = family.id
            claims["auth_time"] = family.authenticated_at // 1000
            claims["amr"] = list(family.amr)
            if family.acr is not None:
                claims["acr"] = family.acr
        if dpop_jkt is not None:
            claims["cnf"] = {"jkt": dpop_jkt}
        return Minted(self._keys.sign(claims, typ=ACCESS_TYP), life)

    # --- judging ---

    def cached(self, token: str) -> Caller | None:
        """See `Verifier.cached`."""
        found = self._remembered(token)
        if found is None or found.dpop_jkt is not None or found.family is None or not self._is_ours(found):
            return None
        return found.caller

    async def verify(self, token: str) -> Caller:
        """The caller of a bearer token for this server's own resources; see `Verifier.verify`.

        Raises:
            InvalidToken: it does not count, is for somebody else, has no user, or is bound to a DPoP key.
            Unavailable: that could not be found out.
        """
        return await self.verify_bound(token, None)

    async def verify_bound(self, token: str, dpop_jkt: str | None) -> Caller:
        """As `verify`, for a token that came with a DPoP proof of this key (RFC 9449, section 7.1)."""
        found = await self.judge(token)
        if found is None or found.dpop_jkt != dpop_jkt or not self._is_ours(found):
            raise InvalidToken
        return found.caller

    async def judge(self, token: str) -> Judgement | None:
        """All there is to know of a token that counts now, whoever it is for; None for any other.

        Raises:
            Unavailable: that could not be found out.
        """
        found = self._remembered(token)
        if found is not None:
            return found
        for _ in range(5):
            epoch = self._cache.epoch
            found = await self._look_up(token)
            if found is None:
                return None
            if self._cache.epoch == epoch:
                self._cache.put(token, found)
                return found
            # Keys were revoked while we read: what we read may be older than that.
        raise Unavailable

    def _remembered(self, token: str) -> Judgement | None:
        found = self._cache.get(token)
        if found is None or not self._believed() or self._is_marked(found.subjects):
            return None
        return found

    async def _look_up(self, token: str) -> Judgement | None:
        try:
            claims = await self._keys.verify(token, typ=ACCESS_TYP)
        except BadToken:
            return None
        # The signature is ours, so these members are as `mint` wrote them.
        client_id, jti, gid = claims["client_id"], claims["jti"], claims.get("gid")
        subjects = (f"j:{jti}", f"c:{client_id}") if gid is None else (f"g:{gid}", f"j:{jti}", f"c:{client_id}")
        if await self._marks.check(subjects):
            return None
        client = await self._clients.find(client_id)
        if client is None:
            return None
        family = None
        if gid is not None:
            family = await self._families.find(client_id, gid)
            if family is None:
                return None
        audience: str | list[str] = claims["aud"]
        return Judgement(
            claims=claims,
            client_id=client_id,
            family=family,
            dpop_jkt=claims.get("cnf", {}).get("jkt"),
            audience=frozenset((audience,) if isinstance(audience, str) else audience),
            scopes=frozenset(claims["scope"].split()) & frozenset(client.scopes),
            subjects=subjects,
        )

    def _is_marked(self, subjects: tuple[str, ...]) -> bool:
        revoked = self._marks.revoked
        for subject in subjects:  # noqa: SIM110 - a generator costs more than the loop
            if revoked(subject):
                return True
        return False

    def _is_ours(self, found: Judgement) -> bool:
        return not self._audiences.isdisjoint(found.audience)

    # --- forgetting ---

    def forget(self) -> None:
        """Forgets everything, so that all is looked up anew."""
        self._cache.clear()


class _Cache:
    """Judgements by token, the least recently used thrown out first."""

    def __init__(self, clock: Clock, max_entries: int) -> None:
        self._clock = clock
        self._max_entries = max_entries
        self._entries: OrderedDict[str, tuple[Judgement, float]] = OrderedDict()
        self.epoch = 0
        """Raised by every clearing. What was read before a rise must not be stored after it."""

    def get(self, token: str) -> Judgement | None:
        entry = self._entries.get(token)
        if entry is None or self._clock.monotonic() >= entry[1]:
            return None
        self._entries.move_to_end(token)
        return entry[0]

    def put(self, token: str, found: Judgement) -> None:
        left = min(RECHECK_SECONDS, found.claims["exp"] - self._clock.now())
        self._entries[token] = (found, self._clock.monotonic() + left)
        self._entries.move_to_end(token)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        self.epoch += 1
        self._entries.clear()
