"""Bodies whose members have fixed names: logins, batches, topics.

PocketBase reads them into structures and takes `IDENTITY`, `identity_field` or a word with an old long s for the names that they are. So they
are brought to their one name here, what is no member is dropped, and only that goes on (contract gateway, A.6). Bodies of records
are not of this kind: there the case of names counts.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any, Literal, Protocol, cast

from hapta.gateway.bodies import forms, json
from hapta.gateway.errors import BadBody, BadMedia
from hapta.http.media import Media, boundary_of, parse_header
from hapta.http.multipart import MultipartReader, Part
from hapta.http.requests import body_too_large

Json = Any
Kind = Literal["text", "texts", "number", "map", "any"]

MAX_ENVELOPE_BYTES = 4 * 1024 * 1024
"""A thousand topics of 2,500 characters fit."""


class Head(Protocol):
    """What is needed of a request."""

    def raw_header(self, name: bytes) -> bytes | None: ...


class Envelope:
    """The members of one kind of body.

    Args:
        members: by their one name, what they hold; an `Envelope` for a list of such.
        from_query: members that count in the query of any body, not only of a form.
    """

    def __init__(self, members: Mapping[str, Kind | Envelope], from_query: Iterable[str] = ()) -> None:
        self._members = members
        self._names = {folded(name): name for name in members}
        self._from_query = frozenset(from_query)

    def of_json(self, value: Json, *, exact: bool = False) -> dict[str, Json]:
        """The members of a JSON body; null and nothing are empty.

        A body of nothing but `@jsonPayload`, as the Python SDK sends batches, is read for what it holds (contract gateway, A.8).

        Args:
            exact: take no other spelling of a name. So PocketBase reads the payloads of forms.

        Raises:
            BadBody: it is no object, names a member in two spellings, or one of them holds another type.
        """
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise BadBody("The submitted data must be an object.")
        given = cast(dict[str, Json], value)
        if not exact and given.keys() == {forms.PAYLOAD} and isinstance(payload := given[forms.PAYLOAD], str):
            return self.of_json(json.loads(payload), exact=True)
        members: dict[str, Json] = {}
        for key, member in given.items():
            name = self._names.get(folded(key))
            if name is None or (exact and name != key):
                continue
            if name in members:
                raise BadBody(f"The member {name} is given twice.")
            members[name] = self._checked(name, member, exact)
        return members

    def of_form(self, pairs: forms.Pairs, query: forms.Pairs | None = None) -> dict[str, Json]:
        """The members of a form by their exact names: of two the first, the query behind the body, over all each `@jsonPayload`.

        Raises:
            BadBody: as `of_json`.
        """
        given: dict[str, list[str]] = {}
        payloads: list[str] = []
        for name, value in (*pairs, *(query or ())):
            if name == forms.PAYLOAD:
                payloads.append(value)
            elif name in self._members:
                given.setdefault(name, []).append(value)
        members: dict[str, Json] = {}
        for name, values in given.items():
            match self._members[name]:
                case "text":
                    members[name] = values[0]
                case "texts":
                    members[name] = values
                case "number":
                    number = forms.inferred(values[0])
                    members[name] = self._checked(name, 0 if values[0] == "" else number)
                case _:
                    raise BadBody(f"The member {name} must be given in JSON.")
        for payload in payloads:
            value = json.loads(payload)
            # PocketBase begins anew at null.
            members = {} if value is None else members | self.of_json(value, exact=True)
        return members

    def with_query(self, members: dict[str, Json], query: forms.Pairs) -> dict[str, Json]:
        """The members of a JSON body, and those that count in the query of any."""
        for name, value in query:
            if name in self._from_query and not members.get(name):
                members[name] = value
        return members

    def _checked(self, name: str, value: Json, exact: bool = False) -> Json:
        kind = self._members[name]
        if value is None or kind == "any":
            return value
        if isinstance(kind, Envelope):
            if isinstance(value, list):
                return [kind.of_json(item, exact=exact) for item in cast(list[Json], value)]
        elif kind == "text":
            if isinstance(value, str):
                return value
        elif kind == "texts":
            if isinstance(value, list) and all(isinstance(item, str) for item in cast(list[Json], value)):
                return cast(list[Json], value)
        elif kind == "number":
            if isinstance(value, int | float) and not isinstance(value, bool):
                return value
        elif isinstance(value, dict):
            return cast(dict[str, Json], value)
        raise BadBody(f"The member {name} has the wrong type.")


def folded(name: str) -> str:
    """A name as PocketBase compares those of structures: without case, `_` and `-`."""
    return name.replace("_", "").replace("-", "").casefold()


PASSWORD = Envelope({"identity": "text", "password": "text", "identityField": "text", "mfaId": "text"}, ["mfaId"])
OAUTH2 = Envelope(
    {
        "provider": "text",
        "code": "text",
        "codeVerifier": "text",
        "redirectURL": "text",
        "createData": "map",
        "mfaId": "text",
    },
    ["mfaId"],
)
OTP = Envelope({"otpId": "text", "password": "text", "mfaId": "text"}, ["mfaId"])
EMAIL = Envelope({"email": "text"})
"""request-otp, request-verification, request-password-reset."""

NEW_EMAIL = Envelope({"newEmail": "text"})
CONFIRM = Envelope({"token": "text", "password": "text", "passwordConfirm": "text"})
"""confirm-verification, confirm-password-reset, confirm-email-change."""

REALTIME = Envelope({"clientId": "text", "subscriptions": "texts"})
IMPERSONATE = Envelope({"duration": "number"})
BATCH = Envelope({"requests": Envelope({"method": "text", "url": "text", "headers": "map", "body": "map"})})


async def read_envelope(
    request: Head,
    chunks: AsyncIterable[bytes],
    envelope: Envelope,
    query: bytes = b"",
    max_bytes: int = MAX_ENVELOPE_BYTES,
) -> dict[str, Json]:
    """Reads a body with fixed names, in any form. Files in it are dropped, as PocketBase does.

    Args:
        query: the request's query string. With a form its parameters are members too, behind those of the body.

    Returns:
        The members by their one name; those that were not given are missing.

    Raises:
        BadBody, BadMedia, TooLarge
    """
    length = request.raw_header(b"content-length")
    if length is not None and length.isdigit() and int(length[:20]) > max_bytes:
        raise body_too_large(max_bytes)
    raw_type = request.raw_header(b"content-type")
    media = parse_header(raw_type) if raw_type else Media("", {})
    parameters = forms.parse(query) if query else []
    if media.essence == "multipart/form-data":
        pairs = await _read_pairs(chunks, MultipartReader(boundary_of(media)), max_bytes)
        return envelope.of_form(pairs, parameters)
    raw = await read_text(chunks, media.essence, max_bytes)
    if media.essence == "application/x-www-form-urlencoded" and raw:
        return envelope.of_form(forms.parse(raw), parameters)
    return envelope.with_query(envelope.of_json(await json.read(raw) if raw else None), parameters)


async def read_text(chunks: AsyncIterable[bytes], essence: str, max_bytes: int) -> bytes:
    """A body that is held in memory.

    Raises:
        BadMedia: it is of a type that is not read.
        TooLarge: it is longer than `max_bytes`.
    """
    known = essence in {"application/json", "application/x-www-form-urlencoded"}
    raw, size = list[bytes](), 0
    async for chunk in chunks:
        if chunk and not known:
            raise BadMedia
        size += len(chunk)
        if size > max_bytes:
            raise body_too_large(max_bytes)
        raw.append(chunk)
    return raw[0] if len(raw) == 1 else b"".join(raw)


async def _read_pairs(chunks: AsyncIterable[bytes], reader: MultipartReader, max_bytes: int) -> forms.Pairs:
    pairs: forms.Pairs = []
    size, part, text = 0, Part("", None, ""), list[bytes]()
    async for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise body_too_large(max_bytes)
        for event in reader.feed(chunk):
            if isinstance(event, Part):
                part, text = event, []
            elif isinstance(event, bytes):
                text.append(event)
            elif part.filename is None:
                pairs.append((part.name, forms.text(b"".join(text))))
    reader.finish()
    return pairs
