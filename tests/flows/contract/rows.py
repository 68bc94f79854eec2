"""What the tests of the wire contract share: its words, its bodies, and how an answer is read."""

from __future__ import annotations

import re
from typing import Any

import httpx

from hapta.testing.server import Account

VAULT = "018f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3d"
SECOND_VAULT = "018f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3e"
SECRET = "the signing key of this file alone, thirty-two bytes and more"
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
KEY = {"vaultId": VAULT, "encryptedVaultKey": "a2V5", "salt": "c2FsdA==", "nonce": "bm9uY2U="}
ODD_STRINGS = [
    "",
    " ",
    "not base64 at all!",
    "AA=A",
    "AB==",  # decodes to the byte that canonical base64 writes as AA==
    "AAECAwQFBgcICQoL",
    'a"b\\c/d\b\f\n\r\t\x01\x7f',
    "é ß 漢字 \u2028 \ufeff 😀",
    "e\u0301",
    "A" * 4000,
]


def logs(count: int, tag: str = "log", **further: Any) -> list[dict[str, Any]]:
    return [
        {"encryptedData": f"{tag} {number}", "nonce": f"{number}", "haexTimestamp": f"{number}/a", **further}
        for number in range(count)
    ]


def push_of(count: int, tag: str = "log", vault: str = VAULT, **further: Any) -> dict[str, Any]:
    return {"vaultId": vault, "logs": logs(count, tag), **further}


async def pushed(account: Account, body: dict[str, Any]) -> dict[str, Any]:
    answer = await account.post("/sync/push", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def pulled(account: Account, vault: str = VAULT, **body: Any) -> dict[str, Any]:
    answer = await account.post("/sync/pull", json={"vaultId": vault, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer: httpx.Response, status: int, error: str, code: str) -> dict[str, Any]:
    """The error body, whose two promised members were compared."""
    assert (answer.status_code, answer.json().get("error"), answer.json().get("code")) == (status, error, code)
    return answer.json()


def issues(answer: httpx.Response) -> set[tuple[str | int, ...]]:
    """The paths of a validation error of the promised form."""
    body = refused(answer, 400, "Validation failed", "validation_error")
    assert body["success"] is False
    assert set(body) == {"success", "error", "code", "issues"}
    for issue in body["issues"]:
        assert set(issue) == {"path", "message"}
        assert isinstance(issue["message"], str)
        assert issue["message"]
    return {tuple(issue["path"]) for issue in body["issues"]}
