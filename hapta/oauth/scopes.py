"""The table of scopes: their names, what people read on the consent page, and how much they put at risk.

From it come the consent page, `scopes_supported` and the ceiling of every client. Beside it stands what each role may do: an
app gets what it asks for as far as its ceiling and its user's roles both allow it. `admin:*` is never a third party's
(contract identity, section 25).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

from hapta.oauth.errors import InvalidScope
from hapta.oauth.models import Client

Risk = Literal["low", "medium", "high"]
MAX_SCOPE_CHARACTERS = 2000
MAX_SCOPES = 64
_TOKEN = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")  # RFC 6749, section 3.3
_FURTHER = re.compile(r"(?P<name>[a-z][a-z0-9_.-]*(?::[a-z0-9_.*-]+)?)(?:/(?P<risk>low|medium|high))?=(?P<text>.+)")


@dataclass(frozen=True, slots=True)
class Scope:
    """One scope.

    Args:
        text: what an app may do with it, as the end of "This app wants to ...", by language; `en` is always there.
        claims: of UserInfo and ID tokens (OpenID Connect Core, section 5.4).
        optional: whether a person may leave it out when they consent.
    """

    name: str
    risk: Risk
    text: Mapping[str, str]
    claims: tuple[str, ...] = ()
    optional: bool = True

    def describe(self, languages: Sequence[str] = ("en",)) -> str:
        """The sentence in the first of these languages that there is; else in English."""
        return next((self.text[language] for language in languages if language in self.text), self.text["en"])


def _scope(name: str, risk: Risk, en: str, de: str, claims: tuple[str, ...] = (), optional: bool = True) -> Scope:
    return Scope(name, risk, MappingProxyType({"en": en, "de": de}), claims, optional)


PROFILE_CLAIMS = (
    "name",
    "family_name",
    "given_name",
    "middle_name",
    "nickname",
    "preferred_username",
    "profile",
    "picture",
    "website",
    "gender",
    "birthdate",
    "zoneinfo",
    "locale",
    "updated_at",
)

STANDARD = (
    _scope("openid", "low", "know who you are", "erfahren, wer Sie sind", ("sub",), optional=False),
    _scope("profile", "low", "see your name and profile", "Ihren Namen und Ihr Profil sehen", PROFILE_CLAIMS),
    _scope("email", "low", "see your e-mail address", "Ihre E-Mail-Adresse sehen", ("email", "email_verified")),
    _scope(
        "phone",
        "medium",
        "see your phone number",
        "Ihre Telefonnummer sehen",
        ("phone_number", "phone_number_verified"),
    ),
    _scope("address", "medium", "see your postal address", "Ihre Anschrift sehen", ("address",)),
    _scope(
        "offline_access",
        "medium",
        "keep this access while you are away",
        "diesen Zugang behalten, auch wenn Sie nicht da sind",
    ),
    _scope("posts:read", "low", "read your posts", "Ihre Beiträge lesen"),
    _scope("posts:write", "medium", "write and change posts for you", "Beiträge für Sie schreiben und ändern"),
    _scope("files:read", "medium", "read your files", "Ihre Dateien lesen"),
    _scope("files:write", "high", "add, change and delete your files", "Ihre Dateien anlegen, ändern und löschen"),
)

ROLES = {"user": ("*",), "mod": ("*",), "admin": ("*",), "owner": ("*",)}
"""What people with these roles may let apps do, unless the settings say otherwise."""
_ROLE = re.compile(r"(?P<name>[A-Za-z0-9_.:-]{1,64})=(?P<scopes>.*)")

OPEN_CEILING = ("openid", "profile", "email", "offline_access")
"""All that a client may have which registered itself without anybody's leave (contract identity, section 14)."""


def parse(text: str | None) -> tuple[str, ...]:
    """The names in a `scope` parameter, each once, in order.

    Raises:
        InvalidScope: a character that RFC 6749, section 3.3 does not allow, or far too many of them.
    """
    if not text:
        return ()
    if len(text) > MAX_SCOPE_CHARACTERS:
        raise InvalidScope("The scope is too long")
    return _parsed(text)


@lru_cache(maxsize=256)  # a client asks for the same ones again and again
def _parsed(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name for name in text.split(" ") if name))
    if len(names) > MAX_SCOPES or not all(_TOKEN.fullmatch(name) for name in names):
        raise InvalidScope("The scope is malformed")
    return names


def join(names: Iterable[str]) -> str:
    """The `scope` parameter for these names."""
    return " ".join(names)


class Scopes:
    """The scopes of this server: the standard ones and those that the settings add.

    Args:
        further: `name=text` or `name/risk=text`, as in `notes:read/low=read your notes`.
        roles: `name=scope scope`, as in `reader=profile posts:read`; `*` stands for all, `posts:*` for those of `posts:`. A role
            that is not named here nor in `ROLES` permits nothing.

    Raises:
        ValueError: one of them has another form, or is an `admin:` scope, or a role permits a scope that there is not.
    """

    def __init__(self, further: Sequence[str] = (), roles: Sequence[str] = ()) -> None:
        table = {scope.name: scope for scope in STANDARD}
        for line in further:
            match = _FURTHER.fullmatch(line.strip())
            if match is None or _is_reserved(match["name"]):
                raise ValueError(
                    f"{line!r} is no scope; write name=text or name/risk=text, as in notes:read=read notes"
                )
            risk: Risk = match["risk"] or "medium"  # pyright: ignore[reportAssignmentType] - the pattern allows no other
            table[match["name"]] = Scope(match["name"], risk, MappingProxyType({"en": match["text"].strip()}))
        self._table: Mapping[str, Scope] = MappingProxyType(table)
        patterns = ROLES | dict(_read_role(line) for line in roles)
        self._roles = {role: self._matching(role, names) for role, names in patterns.items()}

    def _matching(self, role: str, patterns: Sequence[str]) -> frozenset[str]:
        found: set[str] = set()
        for pattern in patterns:
            names = {name for name in self._table if _fits(name, pattern)}
            if not names:
                raise ValueError(f"the role {role!r} permits {pattern!r}, and there is no such scope")
            found |= names
        return frozenset(found)

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, as the metadata lists them."""
        return tuple(self._table)

    def find(self, name: str) -> Scope | None:
        return self._table.get(name)

    def get(self, name: str) -> Scope:
        """The entry of a scope.

        Raises:
            InvalidScope: there is none.
        """
        scope = self._table.get(name)
        if scope is None:
            raise InvalidScope("The scope is unknown")
        return scope

    def check_registration(self, names: Sequence[str]) -> None:
        """Refuses scopes that no client may have.

        Raises:
            InvalidScope: unknown, or an `admin:` scope.
        """
        for name in names:
            if _is_reserved(name) or name not in self._table:
                raise InvalidScope(f"There is no scope {name!r} for clients")

    def granted(self, client: Client, requested: Sequence[str]) -> tuple[str, ...]:
        """What a client may ask a user for.

        Args:
            requested: parsed names; none means the client's whole ceiling, which is the default of RFC 6749, section 3.3.

        Raises:
            InvalidScope: one of them is unknown, or beyond the client's ceiling.
        """
        if not requested:
            return tuple(name for name in client.scopes if name in self._table)
        for name in requested:
            if name not in self._table or name not in client.scopes:
                raise InvalidScope("The scope is unknown, or not for this client")
        return tuple(requested)

    def permitted(self, roles: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
        """Those of these scopes that somebody with these roles may let an app have: a token never outranks its user.

        What nobody can leave out (`openid`) opens nothing but who they are, and is for every role.
        """
        allowed = frozenset[str]().union(*(self._roles.get(role, ()) for role in roles))
        return tuple(name for name in names if name in allowed or not self.get(name).optional)

    def claims(self, names: Iterable[str]) -> tuple[str, ...]:
        """The claims about the user that these scopes open (OpenID Connect Core, section 5.4)."""
        found = (claim for name in names if name in self._table for claim in self._table[name].claims)
        return tuple(dict.fromkeys(found))


def _is_reserved(name: str) -> bool:
    return name == "admin" or name.startswith("admin:")


def _read_role(line: str) -> tuple[str, tuple[str, ...]]:
    match = _ROLE.fullmatch(line.strip())
    if match is None:
        raise ValueError(f"{line!r} is no role; write name=scope scope, as in reader=profile posts:read")
    return match["name"], tuple(match["scopes"].split())


def _fits(name: str, pattern: str) -> bool:
    return pattern == "*" or name == pattern or (pattern.endswith(":*") and name.startswith(pattern[:-1]))
