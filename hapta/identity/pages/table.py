"""The entries of pages in the URL table: pages read the session cookie themselves, forms are posted from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hapta.http.api import Content, Endpoint, Handler, Table
from hapta.http.forms import MAX_FORM_BYTES
from hapta.http.pages import HTML, Pages
from hapta.identity.errors import CsrfFailed
from hapta.kit.access import PAGE
from hapta.kit.errors import HaptaError

Errors = Sequence[type[HaptaError]]


class PageTable:
    """Entries of pages and forms.

    Args:
        under: what every path begins with.
    """

    def __init__(self, pages: Pages, under: str = "") -> None:
        self._under = under
        self._table = Table(
            dialect=pages.dialect,
            access=PAGE,
            limit="default",
            tag="pages",
            hidden=True,
            max_body_bytes=MAX_FORM_BYTES,
            cors="none",
        )

    def get(self, path: str, handler: Handler, *, limit: str = "default", errors: Errors = ()) -> Endpoint:
        """A page."""
        answers: dict[int, Any] = {200: Content(HTML), 303: None}
        return self._table.get(
            self._under + path, handler, summary="A page", answers=answers, errors=[*errors], limit=limit
        )

    def post(
        self, path: str, handler: Handler, *, limit: str = "default", errors: Errors = (), shows: bool = False
    ) -> Endpoint:
        """A form.

        Args:
            shows: whether it may be answered with a page instead of a redirect: one that must not be shown twice.
        """
        answers: dict[int, Any] = {303: None, 400: Content(HTML)}
        if shows:
            answers[200] = Content(HTML)
        return self._table.post(
            self._under + path,
            handler,
            summary="A form of a page",
            answers=answers,
            errors=[CsrfFailed, *errors],
            limit=limit,
        )

    def pair(self, path: str, page: Handler, form: Handler, *, limit: str = "default") -> list[Endpoint]:
        """A page, and the form on it, which is posted to the same path."""
        return [self.get(path, page), self.post(path, form, limit=limit)]
