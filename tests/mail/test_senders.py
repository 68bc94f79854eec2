"""Senders against real servers on this machine: a mail server, a receiver of webhooks, a folder."""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hapta.kit.errors import Unavailable
from hapta.kit.standard_webhooks import BadWebhook, WebhookVerifier, new_secret
from hapta.mail.connect import MailMisconfigured, senders
from hapta.mail.file import FileSender
from hapta.mail.sender import FailOver, Outgoing, Refused, TryLater
from hapta.mail.smtp import KEEP_SECONDS, SmtpSender, SmtpServer
from hapta.mail.webhook import WebhookSender
from hapta.settings import MailSettings
from hapta.testing.clock import FakeClock

FROM = "Hapta <no-reply@example.com>"


def message(**changes: Any) -> Outgoing:
    given: dict[str, Any] = {
        "channel": "email",
        "to": "ada@example.com",
        "subject": "123456 ist dein Code für Hapta",
        "text": "Dein Code:\n\n    123456\n",
        "html": "<p>123456</p>",
        "template": "login_code",
        "variables": {"code": "123456"},
        "idempotency_key": "018f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3d",
    }
    return Outgoing(**{**given, **changes})


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


# --- a mail server ---


@dataclass
class MailServer:
    """A mail server of the test's own; `replies` are given to the next recipients instead of taking them."""

    port: int = 0
    taken: list[Envelope] = field(default_factory=list[Envelope])
    secure: list[bool] = field(default_factory=list[bool])
    logins: list[bytes] = field(default_factory=list[bytes])
    replies: list[str] = field(default_factory=list[str])

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.replies:
            return self.replies.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.taken.append(envelope)
        self.secure.append(session.ssl is not None)
        return "250 OK"

    def authenticate(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append(data.login)
        return AuthResult(success=data.password == b"right password")

    def last_mail(self) -> Any:
        content = self.taken[-1].content
        assert isinstance(content, bytes)
        return email.message_from_bytes(content, policy=email.policy.default)


@dataclass
class Certificate:
    server: ssl.SSLContext
    client: ssl.SSLContext


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for this machine, and a client that trusts nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("certificate")
    whole = folder / "whole.pem"
    whole.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(whole)
    return Certificate(
        server, ssl.create_default_context(cadata=made.public_bytes(serialization.Encoding.PEM).decode())
    )


NewMailServer = Callable[..., Any]


@pytest.fixture
async def new_mail_server() -> AsyncIterator[NewMailServer]:
    """Starts mail servers: `tls` for TLS from the first byte, `starttls` for the command."""
    running: list[asyncio.Server] = []
    made: list[MailServer] = []

    async def new(
        *, tls: ssl.SSLContext | None = None, starttls: ssl.SSLContext | None = None, auth: bool = False
    ) -> MailServer:
        server = MailServer()

        def protocol() -> SMTP:
            return SMTP(
                server,
                tls_context=starttls,
                authenticator=server.authenticate if auth else None,
                auth_require_tls=False,
                loop=asyncio.get_running_loop(),
            )

        listening = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0, ssl=tls)
        server.port = listening.sockets[0].getsockname()[1]
        running.append(listening)
        made.append(server)
        return server

    yield new
    for listening in running:
        listening.close()


def smtp(
    server: MailServer, clock: FakeClock, tls: ssl.SSLContext | None = None, timeout_seconds: float = 20, **changes: Any
) -> SmtpSender:
    given = {"host": "127.0.0.1", "port": server.port, "implicit_tls": False, "starttls": False, **changes}
    return SmtpSender(SmtpServer(**given), FROM, clock, timeout_seconds=timeout_seconds, tls=tls)


async def test_a_mail_arrives_with_its_headers_and_both_forms(new_mail_server: NewMailServer, clock: FakeClock) -> None:
    server = await new_mail_server()
    sender = smtp(server, clock)
    await sender.send(message())
    await sender.close()
    mail = server.last_mail()
    assert server.taken[0].rcpt_tos == ["ada@example.com"]
    assert mail["subject"] == "123456 ist dein Code für Hapta"
    assert mail["from"] == FROM
    assert mail["message-id"] == "<018f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3d@example.com>"
    assert mail["auto-submitted"] == "auto-generated"
    assert mail["date"].datetime == datetime(2030, 1, 1, tzinfo=UTC)
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]


async def test_starttls_comes_before_the_mail(
    new_mail_server: NewMailServer, certificate: Certificate, clock: FakeClock
) -> None:
    server = await new_mail_server(starttls=certificate.server, auth=True)
    sender = smtp(server, clock, certificate.client, starttls=True, username="ada", password="right password")
    await sender.send(message())
    await sender.close()
    assert server.secure == [True]
    assert server.logins == [b"ada"]


async def test_tls_from_the_first_byte(
    new_mail_server: NewMailServer, certificate: Certificate, clock: FakeClock
) -> None:
    server = await new_mail_server(tls=certificate.server)
    sender = smtp(server, clock, certificate.client, implicit_tls=True)
    await sender.send(message())
    await sender.close()
    assert len(server.taken) == 1


async def test_a_server_without_the_starttls_that_is_demanded_gets_nothing(
    new_mail_server: NewMailServer, clock: FakeClock
) -> None:
    server = await new_mail_server()
    with pytest.raises(TryLater):
        await smtp(server, clock, starttls=True).send(message())
    assert server.taken == []


async def test_a_certificate_that_nobody_vouches_for_gets_nothing(
    new_mail_server: NewMailServer, certificate: Certificate, clock: FakeClock
) -> None:
    server = await new_mail_server(starttls=certificate.server)
    with pytest.raises(TryLater):
        await smtp(server, clock, ssl.create_default_context(), starttls=True).send(message())
    assert server.taken == []


async def test_a_refused_login_may_be_mended_and_tells_no_password(
    new_mail_server: NewMailServer, certificate: Certificate, clock: FakeClock
) -> None:
    server = await new_mail_server(starttls=certificate.server, auth=True)
    # This server falls silent at the second kind of login that is tried, until the client has had enough.
    sender = smtp(server, clock, certificate.client, 3, starttls=True, username="ada", password="wrong password")
    with pytest.raises(TryLater) as told:
        await sender.send(message())
    assert "wrong password" not in str(told.value)


@pytest.mark.parametrize(
    ("reply", "kind"), [("550 5.1.1 no such user", Refused), ("451 4.7.1 greylisted, come back", TryLater)]
)
async def test_a_final_answer_is_told_from_a_passing_one_and_names_nobody(
    new_mail_server: NewMailServer, clock: FakeClock, reply: str, kind: type[Exception]
) -> None:
    server = await new_mail_server()
    server.replies = [reply]
    sender = smtp(server, clock)
    with pytest.raises(kind) as told:
        await sender.send(message())
    assert "ada" not in str(told.value)
    await sender.send(message())  # the connection is still good
    await sender.close()
    assert len(server.taken) == 1


async def test_a_server_that_is_away_may_come_back(clock: FakeClock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    sender = SmtpSender(SmtpServer("127.0.0.1", port, False, False), FROM, clock, timeout_seconds=20)
    with pytest.raises(TryLater):
        await sender.send(message())


async def test_a_connection_is_used_again_and_not_after_it_was_idle_for_long(clock: FakeClock) -> None:
    opened = 0
    server = MailServer()

    def protocol() -> SMTP:
        nonlocal opened
        opened += 1
        return SMTP(server, loop=asyncio.get_running_loop())

    listening = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    sender = smtp(server, clock)
    for _ in range(3):
        await sender.send(message())
    assert opened == 1
    clock.advance(seconds=KEEP_SECONDS)
    await sender.send(message())
    assert opened == 2
    await sender.close()
    listening.close()
    assert len(server.taken) == 4


@pytest.mark.parametrize(
    "change", [{"to": "ada@example.com\r\nBcc: eve@example.com"}, {"subject": "Hello\r\nBcc: eve@example.com"}]
)
async def test_nothing_gets_into_the_headers_by_a_line_break(
    new_mail_server: NewMailServer, clock: FakeClock, change: dict[str, str]
) -> None:
    server = await new_mail_server()
    with pytest.raises(Refused):
        await smtp(server, clock).send(message(**change))
    assert server.taken == []


def test_an_smtp_url_says_host_port_and_login() -> None:
    server = SmtpServer.parse("smtp://us%40er:p%2Fw@mail.example.com")
    assert (server.host, server.port, server.starttls, server.implicit_tls) == ("mail.example.com", 587, True, False)
    assert (server.username, server.password) == ("us@er", "p/w")
    assert "p/w" not in repr(server)
    assert SmtpServer.parse("smtps://mail.example.com").port == 465
    assert not SmtpServer.parse("smtp://localhost:25").starttls
    for wrong in ("http://mail.example.com", "smtp://", "mail.example.com"):
        with pytest.raises(ValueError):
            SmtpServer.parse(wrong)


# --- webhooks ---


@dataclass
class Receiver:
    """What stands behind the URL of a provider; `post` is how an outgoing request looks to the sender."""

    statuses: list[int] = field(default_factory=list[int])
    got: list[tuple[str, Mapping[str, str], bytes]] = field(default_factory=list[tuple[str, Mapping[str, str], bytes]])

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        self.got.append((url, headers, body))
        return self.statuses.pop(0) if self.statuses else 204


async def test_a_provider_gets_a_signed_message_and_knows_a_second_try(clock: FakeClock) -> None:
    secret, receiver = new_secret(), Receiver()
    sender = WebhookSender("https://sms.example.com/in", secret, clock, receiver.post)
    await sender.send(message(channel="sms", to="+4915123456789", subject="", html=None))
    clock.advance(seconds=5)
    await sender.send(message(channel="sms", to="+4915123456789", subject="", html=None))
    verifier = WebhookVerifier([secret], now=clock.now)
    (url, headers, body), (_, again, again_body) = receiver.got
    assert url == "https://sms.example.com/in"
    assert verifier.verify(again_body, again).id == "018f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3d"
    assert headers["webhook-id"] == again["webhook-id"]
    assert headers["webhook-timestamp"] != again["webhook-timestamp"]
    data = json.loads(body)["data"]
    assert (data["channel"], data["to"], data["idempotencyKey"]) == ("sms", "+4915123456789", headers["webhook-id"])
    with pytest.raises(BadWebhook):
        verifier.verify(again_body + b" ", again)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Refused),
        (422, Refused),
        (401, TryLater),
        (404, TryLater),
        (429, TryLater),
        (500, TryLater),
        (302, TryLater),
    ],
)
async def test_a_providers_answer_says_whether_to_try_again(
    clock: FakeClock, status: int, kind: type[Exception]
) -> None:
    receiver = Receiver(statuses=[status])
    with pytest.raises(kind):
        await WebhookSender("https://sms.example.com/in", new_secret(), clock, receiver.post).send(message())


@pytest.mark.parametrize("error", [OSError("away"), TimeoutError(), Unavailable()])
async def test_no_answer_is_tried_again(clock: FakeClock, error: Exception) -> None:
    async def post(url: str, headers: Mapping[str, str], body: bytes) -> int:
        raise error

    with pytest.raises(TryLater):
        await WebhookSender("https://sms.example.com/in", new_secret(), clock, post).send(message())


# --- a folder, two ways, and settings ---


async def test_files_are_for_their_owner_alone(tmp_path: Path, clock: FakeClock) -> None:
    sender = FileSender(tmp_path / "outbox", clock, FROM)
    await sender.send(message())
    await sender.send(message())
    await sender.send(message(channel="sms", to="+4915123456789", text="123456 is your code", html=None))
    files = sorted((tmp_path / "outbox").iterdir())
    assert [file.suffix for file in files] == [".eml", ".txt"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "outbox").stat().st_mode) == 0o700
    assert files[1].read_text() == "To: +4915123456789\n\n123456 is your code\n"


async def test_a_folder_that_cannot_be_written_is_tried_again(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "outbox").write_text("a file is in the way")
    with pytest.raises(TryLater):
        await FileSender(tmp_path / "outbox", clock, FROM).send(message())


async def test_the_second_way_serves_while_the_first_one_cannot(tmp_path: Path, clock: FakeClock) -> None:
    first = Receiver(statuses=[503, 400])
    sender = FailOver(
        WebhookSender("https://mail.example.com/in", new_secret(), clock, first.post),
        FileSender(tmp_path, clock, FROM),
    )
    await sender.send(message())
    assert len([*tmp_path.iterdir()]) == 1
    with pytest.raises(Refused):
        await sender.send(message(idempotency_key="another"))
    assert len([*tmp_path.iterdir()]) == 1
    await sender.close()


@contextmanager
def misconfigured(text: str) -> Iterator[None]:
    with pytest.raises(MailMisconfigured, match=text):
        yield


def test_settings_choose_the_ways(tmp_path: Path, clock: FakeClock) -> None:
    def chosen(**settings: Any) -> dict[str, str]:
        made = senders(MailSettings(**settings), tmp_path, clock, Receiver().post)
        return {channel: type(sender).__name__ for channel, sender in made.items()}

    hook = {"webhook_url": "https://mail.example.com/in", "webhook_secret": new_secret()}
    assert chosen() == {"email": "FileSender", "sms": "FileSender"}
    assert chosen(sender="smtp", smtp_url="smtp://localhost:25") == {"email": "SmtpSender"}
    assert chosen(sender="smtp", smtp_url="smtp://localhost", fallback="webhook", **hook) == {"email": "FailOver"}
    sms = {"sms_webhook_url": "https://sms.example.com", "sms_webhook_secret": new_secret()}
    assert chosen(sender="webhook", **hook, **sms) == {"email": "WebhookSender", "sms": "WebhookSender"}
    with misconfigured("smtp://"):
        chosen(sender="smtp")
    with misconfigured("webhook_url"):
        chosen(sender="webhook")
    with misconfigured("webhook secret"):
        chosen(**{**sms, "sms_webhook_secret": "short"})
