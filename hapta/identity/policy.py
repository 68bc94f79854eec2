"""Small rules that pages and JSON routes share: where a browser may be sent on to, and what is told of a client."""

from __future__ import annotations

from urllib.parse import quote

from hapta.http.requests import Request
from hapta.identity.models import Origin

MAX_PATH_CHARACTERS = 8192
MAX_USER_AGENT_CHARACTERS = 256
LOGIN_PATH = "/identity/login"
ACCOUNT_PATH = "/identity/account"


def safe_path(given: str | None) -> str | None:
    """The path to go on to, if it stays on this server; None for anything else (contract identity, section 24).

    Only `/` and then something that no browser reads as another host: no second slash, no backslash (browsers take it for a
    slash), no control character or blank (browsers drop some of them before they read the address), ASCII alone.
    """
    if given is None or len(given) > MAX_PATH_CHARACTERS or not given.startswith("/") or given.startswith("//"):
        return None
    if "\\" in given or not given.isascii() or not given.isprintable() or " " in given:
        return None
    return given


def with_continue(path: str, continue_to: str | None) -> str:
    """The page at `path`, told where to go on to afterwards; what is no path of this server is left out."""
    kept = safe_path(continue_to)
    return path if kept is None else f"{path}?continue={quote(kept, safe='/')}"


def login_path(continue_to: str, *, reauthenticate: bool = False) -> str:
    """The login page that leads on to `continue_to`; what is no path of this server is left out."""
    path = with_continue(LOGIN_PATH, continue_to)
    if not reauthenticate:
        return path
    return f"{path}{'&' if '?' in path else '?'}again=1"


def origin(request: Request, *, device_id: str | None = None, device_label: str | None = None) -> Origin:
    """Where a request comes from, for sessions and events."""
    agent = request.header("user-agent")
    return Origin(
        device_id=device_id,
        device_label=device_label,
        user_agent=None if agent is None else agent[:MAX_USER_AGENT_CHARACTERS],
        address=request.client_address,
        request_id=request.request_id,
    )
