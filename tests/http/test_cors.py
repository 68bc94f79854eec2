"""Which pages of other origins may call, and what their scripts may read."""

from __future__ import annotations

import pytest

from hapta.http.cors import EXPOSED, Cors

APP = b"https://app.example"


def preflight(**more: bytes) -> dict[bytes, bytes]:
    return {b"origin": APP, b"access-control-request-method": b"POST"} | {
        name.replace("_", "-").encode(): value for name, value in more.items()
    }


def test_a_star_allows_everybody_without_credentials() -> None:
    cors = Cors(["*"])
    expected = ((b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", EXPOSED))
    assert cors.headers(APP) == cors.headers(None) == expected
    assert dict(cors.preflight("OPTIONS", preflight()) or ())[b"access-control-allow-origin"] == b"*"


@pytest.mark.parametrize("origins", [["*"], ["https://app.example"]])
def test_credentials_are_never_allowed(origins: list[str]) -> None:
    cors = Cors(origins)
    names = [name for name, _ in (*cors.headers(APP), *(cors.preflight("OPTIONS", preflight()) or ()))]
    assert b"access-control-allow-credentials" not in names


def test_a_list_echoes_only_its_own_origins_and_varies() -> None:
    cors = Cors([" https://app.example ", "http://localhost:5173/"])
    assert dict(cors.headers(APP)) == {
        b"access-control-allow-origin": APP,
        b"access-control-expose-headers": EXPOSED,
        b"vary": b"Origin",
    }
    assert dict(cors.headers(b"http://localhost:5173"))[b"access-control-allow-origin"] == b"http://localhost:5173"
    for other in (b"https://app.example.evil.test", b"https://APP.example", b"http://app.example", b"null", None):
        assert cors.headers(other) == ((b"vary", b"Origin"),)


def test_a_preflight_names_the_methods_and_echoes_the_headers() -> None:
    answer = dict(
        Cors(["*"]).preflight("OPTIONS", preflight(access_control_request_headers=b"authorization, x-Client")) or ()
    )
    assert answer[b"access-control-allow-methods"] == b"GET,HEAD,PUT,POST,DELETE,PATCH"
    assert answer[b"access-control-allow-headers"] == b"authorization, x-Client"
    assert int(answer[b"access-control-max-age"]) > 0


@pytest.mark.parametrize("requested", [b"a b", b"x\r\nset-cookie: y", b"a,,b", b"<script>", b"", b"x" * 5000, b"\xe4"])
def test_requested_headers_that_are_no_header_names_are_not_echoed(requested: bytes) -> None:
    answer = Cors(["*"]).preflight("OPTIONS", preflight(access_control_request_headers=requested))
    assert answer is not None
    assert b"access-control-allow-headers" not in dict(answer)


def test_a_preflight_of_a_foreign_origin_gets_no_permission() -> None:
    answer = Cors(["https://other.example"]).preflight("OPTIONS", preflight())
    assert answer == ((b"vary", b"Origin"),)


@pytest.mark.parametrize("headers", [{}, {b"origin": APP}, {b"access-control-request-method": b"PUT"}])
def test_an_options_request_without_both_headers_is_no_preflight(headers: dict[bytes, bytes]) -> None:
    assert Cors(["*"]).preflight("OPTIONS", headers) is None


def test_only_an_options_request_is_a_preflight() -> None:
    assert Cors(["*"]).preflight("POST", preflight()) is None
