"""The relay inside a whole server: what `app.py` hands to it, seen from outside."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from hapta.kit.access import UserId
from hapta.testing.server import Account, TestHapta
from tests.relay.house import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def hapta(migrated_url: str, tmp_path: Path):
    environ = {"DATABASE_URL": migrated_url, "HAPTA_BLOBS_SYNC": "none", "HAPPY_APP_URL": "https://app.example.org"}
    async with TestHapta(tmp_path, environ) as server:
        yield server


async def new_session(account: Account) -> str:
    return (await account.post("/v1/sessions", json={"tag": "t", "metadata": "sealed"})).json()["session"]["id"]


def mails(hapta: TestHapta) -> list[EmailMessage]:
    folder = hapta.settings.data.dir / "outbox"
    return [
        message_from_bytes(path.read_bytes(), _class=EmailMessage, policy=policy.default)
        for path in sorted(folder.glob("*session_invitation*.eml"))
    ]


async def test_an_invitation_goes_out_and_only_a_proved_address_accepts_it(hapta: TestHapta) -> None:
    ada, bob = await hapta.register("ada@example.org"), await hapta.register("bob@example.org")
    session = await new_session(ada)
    body = {"email": "bob@example.org", "permission": "view_only"}
    assert (await ada.post(f"/v1/sessions/{session}/sharing/invite", json=body)).status_code == 200
    # The server's own turn may be at it already, and then this one finds nothing to do.
    await hapta.app.services.signing_in.outbox.run()
    await until(lambda: bool(mails(hapta)))
    (mail,) = mails(hapta)
    assert mail["to"] == "bob@example.org"
    content = mail.get_body(("plain",))
    assert content is not None
    (link,) = [
        line for line in content.get_content().splitlines() if line.startswith("https://app.example.org/invite/")
    ]
    accept = f"/v1/invitations/{link.rpartition('/')[2]}/accept"
    assert (await bob.get(accept)).json() == {"error": "Your account has no verified email address"}
    people = hapta.app.services.identity.people
    await people.set_email(UserId(bob.id), "bob@example.org", verified=True)
    assert (await bob.get(accept)).status_code == 200


async def test_people_and_attachments_are_those_of_the_server(hapta: TestHapta) -> None:
    ada, bob = await hapta.register("ada@example.org"), await hapta.register("bob@example.org")
    session = await new_session(ada)
    path = f"/v1/sessions/{session}"
    assert (await ada.post(f"{path}/sharing", json={"userId": "none", "permission": "view_only"})).status_code == 404
    shared = await ada.post(f"{path}/sharing", json={"userId": bob.id, "permission": "view_only"})
    assert shared.status_code == 200
    asked = await ada.post(f"{path}/attachments/request-upload", json={"filename": "x", "size": 3})
    url = asked.json()["uploadUrl"]
    assert url.startswith("https://hapta.test/v1/sessions/")
    assert (await ada.put(url, content=b"abc", headers={"content-type": "application/octet-stream"})).status_code == 200
    assert (await ada.get(url)).content == b"abc"
    assert (await bob.get(url)).status_code == 404


async def test_an_account_that_is_deleted_leaves_nothing_in_the_relay(hapta: TestHapta) -> None:
    ada = await hapta.register("ada@example.org")
    session = await new_session(ada)
    await ada.post("/v1/connect/openai/register", json={"token": "sk-one"})
    await ada.put(f"/v1/sessions/{session}/sharing/url", json={"enabled": True})
    services = hapta.app.services
    tables = ("res_relay_sessions", "res_relay_vendor_tokens", "res_relay_share_urls", "res_relay_heads")
    for table in tables:
        assert await services.db.read(lambda tx, table=table: tx.fetch_value(f"SELECT count(*) FROM {table}")) == 1
    assert await services.identity.people.delete(UserId(ada.id))
    for table in tables:
        assert await services.db.read(lambda tx, table=table: tx.fetch_value(f"SELECT count(*) FROM {table}")) == 0
