"""A person with a browser that runs no scripts: cookies, forms and redirects over plain HTTP, and nothing of Hapta's code.

It knows a page by the fields and buttons of its forms, as a person does, and so works through the pages of any server that asks
for a name and a password first and for consent then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import httpx

MAX_STEPS = 12


@dataclass
class PageForm:
    """A form as it came: what it would send if nobody touched it."""

    action: str
    method: str
    fields: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    checks: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    buttons: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.fields}


class Forms(HTMLParser):
    """All forms of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[PageForm] = []
        self._open = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.found.append(PageForm(given.get("action", ""), given.get("method", "get").lower()))
            self._open = True
        elif self._open and "name" in given:
            pair = given["name"], given.get("value", "")
            form = self.found[-1]
            if tag == "button" or given.get("type") == "submit":
                form.buttons.append(pair)
            elif tag == "input" and (given.get("type") != "checkbox" or "checked" in given):
                form.fields.append(pair)
                if given.get("type") == "checkbox":
                    form.checks.add(pair)

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag != "form"


class Stuck(AssertionError):
    """The person does not know what to do on a page."""


class Person:
    """Somebody with an account.

    Args:
        site: the server's origin; what leads elsewhere is where the app's part begins.
    """

    def __init__(self, site: str, email: str, password: str) -> None:
        self.site = site
        self.email = email
        self.password = password
        self.pages: list[httpx.Response] = []
        self.http = httpx.Client(follow_redirects=False, timeout=120)

    def __enter__(self) -> Person:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()

    def open(self, url: str) -> httpx.Response:
        """Opens an address and follows redirects, as long as they stay on the site."""
        return self._followed(self.http.get(url))

    def submit(
        self,
        page: httpx.Response,
        form: PageForm,
        values: Mapping[str, str] | None = None,
        *,
        button: tuple[str, str] | None = None,
        untick: Collection[str] = (),
    ) -> httpx.Response:
        """Fills a form in and sends it; then as `open`."""
        given = values or {}
        pairs = [pair for pair in form.fields if pair[0] not in given]
        pairs = [pair for pair in pairs if not (pair in form.checks and pair[1] in untick)]
        pairs += list(given.items())
        if button is not None:
            assert button in form.buttons, form.buttons
            pairs.append(button)
        # `Origin` is what browsers add to every form that is posted.
        return self._followed(self._post(urljoin(str(page.url), form.action), pairs))

    def authorize(self, url: str, *, allow: bool = True, untick: Collection[str] = ()) -> str:
        """Goes through all pages that an authorization request leads to; the app's address with its parameters."""
        return self.go_on(self.open(url), allow=allow, untick=untick)

    def go_on(self, page: httpx.Response, *, allow: bool = True, untick: Collection[str] = ()) -> str:
        """From a page to the app: signs in and decides whenever asked to."""
        for _ in range(MAX_STEPS):
            if page.is_redirect:
                return page.headers["location"]
            page = self.step(page, allow=allow, untick=untick)
        raise Stuck(f"no end: {page.url}")

    def step(self, page: httpx.Response, *, allow: bool = True, untick: Collection[str] = ()) -> httpx.Response:
        """One page further.

        Raises:
            Stuck: there is nothing on it that a person could do.
        """
        forms = Forms(page.text).found
        for form in forms:
            if "password" in form.names:
                return self.submit(page, form, self._login(form))
        for form in forms:
            decision = ("decision", "allow" if allow else "deny")
            if decision in form.buttons:
                return self.submit(page, form, button=decision, untick=untick)
        raise Stuck(f"{page.status_code} {page.url}: {page.text}")

    def sign_in(self) -> None:
        """Signs in where no app has asked for it."""
        page = self.open(f"{self.site}/identity/login?continue=/identity/account")
        assert self.step(page).status_code == 200

    def _login(self, form: PageForm) -> dict[str, str]:
        named = {"identifier", "login", "email"} & form.names
        return {**dict.fromkeys(named, self.email), "password": self.password}

    def _post(self, url: str, pairs: list[tuple[str, str]]) -> httpx.Response:
        headers = {"content-type": "application/x-www-form-urlencoded", "origin": self.site}
        return self.http.post(url, content=urlencode(pairs), headers=headers)

    def _followed(self, answer: httpx.Response) -> httpx.Response:
        self.pages.append(answer)
        for _ in range(MAX_STEPS):
            # A page may lead on by itself, which begins a way of its own: browsers follow that like a redirect.
            refresh = answer.headers.get("refresh", "")
            if not answer.is_redirect and "url=" not in refresh:
                return answer
            onward = answer.headers["location"] if answer.is_redirect else refresh.partition("url=")[2]
            target = urljoin(str(answer.url), onward)
            if not target.startswith(f"{self.site}/"):
                return answer
            answer = self.http.get(target)
            self.pages.append(answer)
        raise Stuck(f"redirected without end: {answer.url}")


def parameters(address: str) -> dict[str, str]:
    """The parameters of an address, each of which is there once."""
    found: dict[str, list[str]] = parse_qs(urlsplit(address).query, keep_blank_values=True)
    assert all(len(values) == 1 for values in found.values()), found
    return {name: values[0] for name, values in found.items()}


def claims(token: str) -> dict[str, Any]:
    """The claims of a JWT, unchecked: for looking at what a library has checked."""
    import base64
    import json

    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
