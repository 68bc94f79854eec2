"""The base of all pages: what a template may not do, and what the headers let a page do."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256

import pytest

from hapta.http.api import Reply
from hapta.http.pages import Pages, redirect, waiting_text, when
from hapta.kit.errors import TooMany

PAGES = Pages("Ada & <Sons>", secure=True)


def error_page(**context: object) -> Reply:
    return PAGES.reply("error.html", **{"title": "A", "message": "B", "wait": None, "reference": None, **context})


def header(reply: Reply, name: str) -> str:
    return dict(reply.headers)[name.encode()].decode()


def test_whatever_comes_from_outside_is_escaped() -> None:
    html = error_page(title='<script>alert("1")</script>', message="'\"&").content.decode()
    assert "<script" not in html
    assert "Ada &amp; &lt;Sons&gt;" in html
    assert "&#39;&#34;&amp;" in html


def test_the_policy_names_the_very_style_of_the_page_and_nothing_else() -> None:
    reply = error_page()
    styles = re.findall(r"<style>(.*?)</style>", reply.content.decode(), re.S)
    assert len(styles) == 1
    digest = b64encode(sha256(styles[0].encode()).digest()).decode()
    assert header(reply, "content-security-policy") == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src 'self' data:; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )


def test_a_script_runs_only_where_it_was_handed_in() -> None:
    script = "document.title = 'x'"
    reply = PAGES.reply("error.html", script=script, title="A", message="B", wait=None, reference=None)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'; connect-src 'self';" in header(reply, "content-security-policy")
    assert f"<script>{script}</script>" in reply.content.decode()
    assert "script-src" not in header(error_page(), "content-security-policy")


def test_a_form_may_lead_to_one_more_place_when_the_page_says_so() -> None:
    reply = PAGES.reply(
        "error.html", form_action=["https://app.example", "com.example.app:"], title="A", message="B", wait=None,
        reference=None,
    )  # fmt: skip
    assert "form-action 'self' https://app.example com.example.app:;" in header(reply, "content-security-policy")


@pytest.mark.parametrize("source", ["a; script-src *", "a b", "'unsafe-inline'", "a,b", "é", "a\nb"])
def test_no_source_says_more_than_one_thing(source: str) -> None:
    with pytest.raises(ValueError, match="source"):
        PAGES.reply("error.html", form_action=[source], title="A", message="B", wait=None, reference=None)


def test_browsers_are_told_to_stay_with_https_only_where_there_is_https() -> None:
    assert "max-age" in header(error_page(), "strict-transport-security")
    plain = Pages("Hapta", secure=False).reply("error.html", title="A", message="B", wait=None, reference=None)
    assert b"strict-transport-security" not in dict(plain.headers)


def test_an_error_is_a_page_and_says_when_to_come_back() -> None:
    html = PAGES.dialect.render(TooMany(retry_after_seconds=75), 429, "id", "now").decode()
    assert "try again in 75 seconds" in html


def test_a_redirect_goes_on_with_get() -> None:
    reply = redirect("/identity/account", ((b"set-cookie", b"a=b"),))
    assert (reply.status, header(reply, "location"), header(reply, "cache-control")) == (
        303,
        "/identity/account",
        "no-store",
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1 second"),
        (0.2, "1 second"),
        (1.1, "2 seconds"),
        (99, "99 seconds"),
        (120, "2 minutes"),
        (86400, "24 hours"),
    ],
)
def test_how_long_to_wait_is_said_in_words(seconds: float, text: str) -> None:
    assert waiting_text(seconds) == text


def test_an_instant_is_said_in_words() -> None:
    assert when(1_893_456_000_000) == "1 January 2030, 00:00 UTC"
