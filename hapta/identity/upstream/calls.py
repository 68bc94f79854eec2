"""Calls to providers: guarded, short, and read as JSON. What goes wrong is told apart: away, or not to be believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote_plus, urlencode

from hapta.http.fetch import FetchError, FetchRefused, GuardedFetch
from hapta.http.json import reader
from hapta.identity.upstream.errors import UpstreamAway, UpstreamRefused
from hapta.kit.errors import Invalid

TIMEOUT_SECONDS = 10.0
MAX_BYTES = 512 * 1024
Json = dict[str, Any]
_read = reader(dict[str, Any])
_read_list = reader(list[Any])


class Called(NamedTuple):
    """An answer that may be JSON."""

    status: int
    body: bytes

    def object(self) -> Json:
        """The answer as a JSON object.

        Raises:
            UpstreamRefused: it is none.
        """
        try:
            return _read(self.body)
        except Invalid:
            raise UpstreamRefused("the answer is no JSON object") from None

    def array(self) -> list[Any]:
        """The answer as a JSON array.

        Raises:
            UpstreamRefused: it is none.
        """
        try:
            return _read_list(self.body)
        except Invalid:
            raise UpstreamRefused("the answer is no JSON array") from None


class Calls:
    """Makes them.

    Args:
        fetch: guards where they go.
    """

    def __init__(self, fetch: GuardedFetch) -> None:
        self._fetch = fetch

    async def get(self, url: str, *, bearer: str | None = None, headers: Mapping[str, str] | None = None) -> Called:
        """A GET, with the access token if there is one.

        Raises:
            UpstreamAway: nobody answers, or with an error of their own.
        """
        sent = {"accept": "application/json", **(headers or {})}
        if bearer is not None:
            sent["authorization"] = f"Bearer {bearer}"
        return await self._call("GET", url, sent, None)

    async def exchange(self, url: str, form: Mapping[str, str], headers: Mapping[str, str] | None = None) -> Json:
        """What the token endpoint gave for a code.

        GitHub answers 200 with an error in the body, others 400: the member `error` counts, whatever the status.

        Raises:
            UpstreamRefused: an error, or no bearer token.
            UpstreamAway: nobody answers.
        """
        sent = {
            "accept": "application/json",
            "content-type": "application/x-www-form-urlencoded",
            **(headers or {}),
        }
        called = await self._call("POST", url, sent, urlencode(form).encode("ascii"))
        answer = called.object()
        if "error" in answer or called.status != 200:
            raise UpstreamRefused(f"the token endpoint says {_word(answer.get('error'))} ({called.status})")
        if str(answer.get("token_type", "")).lower() != "bearer":
            raise UpstreamRefused("the access token is no bearer token")
        return answer

    async def _call(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Called:
        try:
            fetched = await self._fetch.request(
                method, url, headers=headers, body=body, max_bytes=MAX_BYTES, timeout_seconds=TIMEOUT_SECONDS
            )
        except FetchRefused as error:
            raise UpstreamRefused(str(error)) from None
        except (FetchError, ValueError) as error:
            raise UpstreamAway(str(error)) from None
        if fetched.status >= 500 or fetched.status == 429:
            raise UpstreamAway(f"the provider answers {fetched.status}")
        return Called(fetched.status, fetched.body)


def access_token(answer: Json) -> str:
    """The access token in an answer of a token endpoint.

    Raises:
        UpstreamRefused: there is none that could stand in a header.
    """
    token = answer.get("access_token")
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable() or len(token) > 16_384:
        raise UpstreamRefused("there is no access token")
    return token


def form_quoted(text: str) -> str:
    """A client's id or secret as it goes into Basic credentials (RFC 6749, section 2.3.1)."""
    return quote_plus(text)


def with_query(url: str, params: Mapping[str, str]) -> str:
    """The address with further parameters."""
    return f"{url}{'&' if '?' in url else '?'}{urlencode(params)}"


def text_or_none(value: object, longest: int = 256) -> str | None:
    """A claim for people, if it is text: cut, without control characters."""
    if not isinstance(value, str):
        return None
    kept = "".join(letter for letter in value if letter.isprintable()).strip()[:longest]
    return kept or None


def _word(value: object) -> str:
    """An error code for the log: a short word, or nothing of what came."""
    if isinstance(value, str) and value.isascii() and 0 < len(value) <= 64 and value.replace("_", "").isalnum():
        return value
    return "something"
