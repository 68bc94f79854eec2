"""How answers reach a client: by the query of its redirect URI, or by a form that the browser posts there."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote, urlencode

from hapta.http.api import Reply
from hapta.http.pages import Pages, form_targets, redirect
from hapta.oauth.authorize.models import Answer
from hapta.oauth.redirect_uris import host_of

SUBMIT = "document.forms[0].submit()"


def answer_reply(pages: Pages, answer: Answer) -> Reply:
    """The redirect (303, contract identity, section 6.7), or the page of OAuth 2.0 Form Post Response Mode."""
    uri = answer.target.redirect_uri
    if answer.target.response_mode == "form_post":
        return pages.reply(
            "oauth_form_post.html",
            form_action=form_targets(uri),
            script=SUBMIT,
            action=uri,
            host=host_of(uri),
            parameters=answer.parameters,
        )
    return redirect(with_parameters(uri, answer.parameters))


def with_parameters(uri: str, parameters: Sequence[tuple[str, str]]) -> str:
    """The URI with further parameters behind those that it has (RFC 6749, section 3.1.2)."""
    if not parameters:
        return uri
    joint = "" if uri.endswith(("?", "&")) else "&" if "?" in uri else "?"
    return f"{uri}{joint}{urlencode(parameters, quote_via=quote)}"
