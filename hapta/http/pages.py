"""HTML pages for people: Jinja2 templates over one base, sent with headers that let a page do as little as possible.

Features bring folders of templates that extend `base.html` and use the macros of `forms.html`. A page needs no JavaScript; the
few that want some (passkeys) hand it in as text, and the policy names its hash. Everything is escaped unless a template of ours
says otherwise, and nothing is loaded from anywhere else.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from hapta.http.api import Reply
from hapta.http.errors import Dialect
from hapta.kit.clock import iso_ms
from hapta.kit.errors import HaptaError, TooMany, Unavailable

if TYPE_CHECKING:
    from jinja2 import Environment

HTML = "text/html; charset=utf-8"
OWN_FOLDER = ("hapta.http", "templates")
Header = tuple[bytes, bytes]

_TITLES: Mapping[int, str] = {
    400: "That did not work",
    401: "Please sign in",
    403: "This is not allowed",
    404: "Not found",
    405: "Not found",
    413: "That is too much",
    415: "That did not work",
    429: "A moment, please",
    500: "Something broke on our side",
    503: "A moment, please",
}


class Pages:
    """Renders templates into answers.

    Args:
        product_name: what the pages call the product.
        secure: whether people reach us by https; then browsers are told to stay with it (RFC 6797).
        folders: where templates are: pairs of a package and a folder in it. Those of `hapta.http` are always there.
    """

    def __init__(self, product_name: str, secure: bool, folders: Sequence[tuple[str, str]] = ()) -> None:
        self._folders = (*folders, OWN_FOLDER)
        self.product_name = product_name
        css = (files(OWN_FOLDER[0]) / OWN_FOLDER[1] / "base.css").read_text("utf-8").strip()
        self._common: Mapping[str, Any] = {"product": product_name, "css": css, "lang": "en", "script": None}
        self._style = _source(css)
        self._hsts: tuple[Header, ...] = (
            ((b"strict-transport-security", b"max-age=31536000; includeSubDomains"),) if secure else ()
        )
        self.dialect = Dialect(
            "page", self._render_error, {"type": "string"}, media_type=HTML, headers=self._headers((), None)
        )
        """For the tables of pages: what the edge itself refuses is told by a page as well."""

    def reply(
        self,
        template: str,
        *,
        status: int = 200,
        headers: Sequence[Header] = (),
        form_action: Sequence[str] = (),
        script: str | None = None,
        **context: Any,
    ) -> Reply:
        """A page.

        Args:
            headers: further headers, cookies above all.
            form_action: further places that the page's forms may lead to, by a redirect as well: browsers hold the whole
                chain against the policy (CSP Level 3, section 6.4.2). Origins such as `https://app.example`, or a scheme
                such as `com.example.app:`.
            script: JavaScript that goes into the page; its hash is what the policy lets run.
            context: what the template needs.
        """
        html = self.render(template, script=script, **context)
        return Reply(status, html, (*self._headers(form_action, script), *headers), HTML)

    def render(self, template: str, **context: Any) -> bytes:
        """The page's bytes alone."""
        return _environment(self._folders).get_template(template).render({**self._common, **context}).encode()

    def _headers(self, form_action: Sequence[str], script: str | None) -> tuple[Header, ...]:
        """The headers of contract identity, sections 6.6 and 29."""
        scripts = "" if script is None else f" script-src {_source(script)}; connect-src 'self';"
        targets = " ".join(("'self'", *map(_plain, form_action)))
        policy = (
            f"default-src 'none'; style-src {self._style};{scripts} img-src 'self' data:; "
            f"form-action {targets}; frame-ancestors 'none'; base-uri 'none'"
        )
        return (
            (b"cache-control", b"no-store"),
            (b"content-security-policy", policy.encode("ascii")),
            (b"x-frame-options", b"DENY"),
            (b"referrer-policy", b"no-referrer"),
            *self._hsts,
        )

    def _render_error(self, error: HaptaError, status: int, correlation_id: str, now_iso: str) -> bytes:
        wait = error.retry_after_seconds if isinstance(error, TooMany | Unavailable) else None
        return self.render(
            "error.html",
            title=_TITLES.get(status, "That did not work"),
            message="We have been told about it. Please try again in a while." if status == 500 else error.message,
            wait=None if wait is None else waiting_text(wait),
            reference=correlation_id if status == 500 else None,
        )


@cache
def _environment(folders: tuple[tuple[str, str], ...]) -> Environment:
    """Where the templates of these folders are found; each is compiled once in a process."""
    # Loaded with the first page: a server that nobody signs in to by page does without.
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, folder) for package, folder in folders]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    filters = cast("dict[str, Any]", environment.filters)  # pyright: ignore[reportUnknownMemberType]
    filters.update(when=when, iso=iso_ms)
    return environment


def redirect(to: str, headers: Sequence[Header] = ()) -> Reply:
    """303: the browser goes on with GET, so no credentials are sent along (contract identity, section 6.7).

    Args:
        to: an address that was checked already; ASCII.
    """
    return Reply(303, None, ((b"location", to.encode("ascii")), (b"cache-control", b"no-store"), *headers))


def form_targets(uri: str) -> tuple[str, ...]:
    """What a page's policy must name so that its form may end at this URI (CSP Level 3, section 6.4.2).

    Browsers hold every redirect after a form against it, also those that the client makes on its own, so for a web address any
    https host is named beside its origin.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return (f"{parts.scheme}:",)
    # A policy has no words for an IPv6 address.
    origin = f"{parts.scheme}:" if "[" in parts.netloc else f"{parts.scheme}://{parts.netloc}"
    return (origin, "https:")


def waiting_text(seconds: float) -> str:
    """How long to wait, for people: `12 seconds`, `3 minutes`."""
    whole = max(1, -int(-seconds // 1))
    if whole < 100:
        return "1 second" if whole == 1 else f"{whole} seconds"
    minutes = -(-whole // 60)
    if minutes < 100:
        return f"{minutes} minutes"
    return f"{-(-minutes // 60)} hours"


def when(milliseconds: int) -> str:
    """An instant, for people: `21 November 2026, 16:30 UTC`."""
    instant = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return f"{instant.day} {instant:%B %Y, %H:%M} UTC"


def _source(text: str) -> str:
    """How a policy names an inline style or script (CSP Level 3, section 2.3.1)."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _plain(source: str) -> str:
    """A source of a policy, refused if it could say more than one thing.

    Raises:
        ValueError: it holds a blank, a semicolon, a comma, a quote, or something beyond ASCII.
    """
    if not source.isascii() or not source.isprintable() or any(c in " ;,'\"" for c in source):
        raise ValueError("not one plain source of a Content-Security-Policy")
    return source
