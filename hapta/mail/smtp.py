"""Mail over SMTP: TLS from the first byte (`smtps://`) or by STARTTLS (`smtp://`), over connections that are kept a while.

STARTTLS is demanded wherever the server is another machine, so that nobody in between can take it away. Answers of the 5xx
kind about this message are final; everything else may be tried again (RFC 5321, section 4.2.1).
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.errors import MessageError
from email.message import EmailMessage
from email.policy import SMTP as SMTP_LINES
from email.utils import format_datetime, parseaddr
from urllib.parse import unquote, urlsplit

import aiosmtplib

from hapta.kit.clock import Clock
from hapta.mail.sender import Outgoing, Refused, TryLater

KEEP_SECONDS = 30.0
"""A connection that was idle for longer is not used again: most servers hang up after a minute or more."""
MAX_IDLE = 4

_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """Where to deliver to, read from an `smtp_url`."""

    host: str
    port: int
    implicit_tls: bool
    starttls: bool
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> SmtpServer:
        """`smtp://user:password@host:587` or `smtps://user:password@host:465`; percent-encode what is special in a URL.

        Raises:
            ValueError: another form, or a password for another machine without TLS.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
            raise ValueError("expected smtp://host:587 or smtps://host:465")
        secure = parts.scheme == "smtps"
        return cls(
            host=parts.hostname,
            port=parts.port or (465 if secure else 587),
            implicit_tls=secure,
            starttls=not secure and parts.hostname not in _LOCAL,
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
        )


class SmtpSender:
    """Sends mail through one server. Implements `Sender`.

    Args:
        from_address: as in `From:`, with or without a name.
        timeout_seconds: for each step of the conversation.
        tls: whom to trust; the system's authorities when left out.
    """

    def __init__(
        self,
        server: SmtpServer,
        from_address: str,
        clock: Clock,
        *,
        timeout_seconds: float = 15.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._server = server
        self._from = from_address
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._tls = tls
        self._idle: list[tuple[aiosmtplib.SMTP, float]] = []

    async def send(self, message: Outgoing) -> None:
        """See `Sender.send`."""
        if message.channel != "email":
            raise Refused("SMTP carries mail only")
        mail = as_mail(message, self._from, self._clock.now())
        kept = self._take()
        if kept is not None:
            try:
                await self._deliver(kept, mail)
                return
            except aiosmtplib.SMTPServerDisconnected:
                pass  # it hung up while the connection was idle, as servers do: a fresh one decides
        try:
            await self._deliver(await self._connect(), mail)
        except aiosmtplib.SMTPServerDisconnected as error:
            raise TryLater("the mail server hung up") from error

    async def close(self) -> None:
        """Says goodbye on every kept connection."""
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            with suppress(aiosmtplib.SMTPException, OSError):
                await connection.quit()
            connection.close()

    def _take(self) -> aiosmtplib.SMTP | None:
        while self._idle:
            connection, since = self._idle.pop()
            if connection.is_connected and self._clock.monotonic() - since < KEEP_SECONDS:
                return connection
            connection.close()
        return None

    async def _connect(self) -> aiosmtplib.SMTP:
        server = self._server
        connection = aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            use_tls=server.implicit_tls,
            start_tls=True if server.starttls else None if not server.implicit_tls else False,
            tls_context=self._tls,
            timeout=self._timeout_seconds,
        )
        try:
            await connection.connect()
            if server.username is not None:
                await connection.login(server.username, server.password or "")
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            connection.close()
            # Also a refused login: the operator can mend that, and the mail is good.
            raise TryLater(f"the mail server: {_told(error)}") from error
        return connection

    async def _deliver(self, connection: aiosmtplib.SMTP, mail: EmailMessage) -> None:
        try:
            await connection.send_message(mail)
        except aiosmtplib.SMTPServerDisconnected:
            connection.close()
            raise
        except aiosmtplib.SMTPRecipientsRefused as error:
            self._keep(connection)
            final = all(500 <= recipient.code < 600 for recipient in error.recipients)
            raise (Refused if final else TryLater)(
                "the recipient: " + ", ".join(str(recipient.code) for recipient in error.recipients)
            ) from None
        except aiosmtplib.SMTPResponseException as error:
            self._keep(connection)
            raise (Refused if 500 <= error.code < 600 else TryLater)(f"the mail server: {_told(error)}") from None
        except aiosmtplib.SMTPNotSupported:
            self._keep(connection)
            raise Refused("the mail server cannot take such an address") from None
        except (aiosmtplib.SMTPException, OSError) as error:
            connection.close()
            raise TryLater(f"the mail server: {_told(error)}") from error
        except BaseException:
            # Cancelled in the middle of a conversation: nobody may go on with it.
            connection.close()
            raise
        self._keep(connection)

    def _keep(self, connection: aiosmtplib.SMTP) -> None:
        if connection.is_connected and len(self._idle) < MAX_IDLE:
            self._idle.append((connection, self._clock.monotonic()))
        else:
            connection.close()


def as_mail(message: Outgoing, from_address: str, now: float) -> EmailMessage:
    """The message as a mail (RFC 5322), text first and HTML as its alternative.

    Raises:
        Refused: an address or the subject cannot stand in a header.
    """
    mail = EmailMessage(policy=SMTP_LINES)
    domain = parseaddr(from_address)[1].rpartition("@")[2] or "localhost"
    try:
        mail["From"] = from_address
        mail["To"] = message.to
        mail["Subject"] = message.subject
        mail["Date"] = format_datetime(datetime.fromtimestamp(now, UTC))
        mail["Message-ID"] = f"<{message.idempotency_key}@{domain}>"
        # RFC 3834: nobody's holiday notice answers it.
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(message.text)
        if message.html is not None:
            mail.add_alternative(message.html, subtype="html")
    except (ValueError, MessageError):
        raise Refused("an address or the subject cannot stand in a header") from None
    return mail


def _told(error: Exception) -> str:
    """What an error says, without the server's words: they may repeat the address."""
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return f"{type(error).__name__} {error.code}"
    return type(error).__name__
