"""The sections of identity: accounts and sessions, pages, messages, webhooks, and other providers to sign in with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hapta.kit.fields import setting


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    """Accounts, passwords and sessions."""

    jwt_secret: str = setting(
        "",
        "Key that signs session tokens, at least 32 bytes. Without it a development server makes one and keeps it in"
        " `secrets/` in the data folder; production refuses to start.",
        env=("JWT_SECRET",),
        hidden="all",
    )
    jwt_expires_in_seconds: int = setting(
        7 * 86400, "Life of a session token.", env=("JWT_EXPIRES_IN",), minimum=60, maximum=10 * 366 * 86400
    )
    min_password_characters: int = setting(8, "Shortest password.", minimum=8, maximum=64)
    allow_registration: bool = setting(
        True,
        "Whether anybody may register; with `false` only `hapta user add` makes accounts.",
        env=("ALLOW_REGISTRATION",),
    )
    password_scheme: Literal["argon2id", "bcrypt"] = setting(
        "argon2id", "How new passwords are hashed. Old hashes stay valid and are renewed at the next login."
    )
    bcrypt_cost: int = setting(12, "Work factor of bcrypt.", minimum=4, maximum=18)
    argon2_memory_kib: int = setting(
        19 * 1024, "Memory of one argon2id hash, in KiB.", minimum=8, maximum=4 * 1024 * 1024
    )
    argon2_iterations: int = setting(2, "Passes of argon2id.", minimum=1, maximum=100)
    hash_threads: int = setting(2, "Threads that hash passwords.", minimum=1, maximum=64)
    hash_queue: int = setting(64, "Passwords that may wait to be hashed; beyond it 429.", minimum=1)
    session_idle_seconds: int = setting(14 * 86400, "A session that was not used for so long ends.", minimum=60)
    session_absolute_seconds: int = setting(90 * 86400, "A session ends so long after its login.", minimum=60)
    max_sessions_per_account: int = setting(100, "Sessions of one account; a further login ends the oldest.", minimum=1)


@dataclass(frozen=True, slots=True)
class MailSettings:
    """How messages reach people: mail and text messages."""

    sender: Literal["file", "smtp", "webhook"] = setting(
        "file", "`file` writes messages into `outbox/` in the data folder, for development; `smtp`; `webhook`."
    )
    from_address: str = setting("Hapta <no-reply@localhost>", "Sender of mail.")
    smtp_url: str = setting("", "`smtp://user:password@host:587` (STARTTLS) or `smtps://host:465`.", hidden="password")
    webhook_url: str = setting("", "Receives each message as a signed POST (Standard Webhooks), for mail.")
    webhook_secret: str = setting("", "Signs those; `whsec_` and base64 of 24 to 64 bytes.", hidden="all")
    sms_webhook_url: str = setting("", "The same for text messages; empty: phone numbers cannot be verified.")
    sms_webhook_secret: str = setting("", "Signs those.", hidden="all")


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Delivery of auth events to registered receivers."""

    timeout_seconds: float = setting(15.0, "How long a receiver may take to answer.", minimum=0.1)
    concurrency: int = setting(8, "Deliveries under way at once, in one worker.", minimum=1)
    allow_private: bool = setting(
        False, "Whether outgoing requests may go to private and loopback addresses; for development only."
    )


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """Other providers that people may sign in with."""

    github_client_id: str = setting("", "OAuth app at GitHub; empty: GitHub is not offered.")
    github_client_secret: str = setting("", "Its secret.", hidden="all")
    google_client_id: str = setting("", "OAuth client at Google; empty: Google is not offered.")
    google_client_secret: str = setting("", "Its secret.", hidden="all")
    oidc_issuer: str = setting("", "Issuer of any OpenID provider; empty: none is offered.")
    oidc_client_id: str = setting("", "Client there.")
    oidc_client_secret: str = setting("", "Its secret.", hidden="all")
    oidc_name: str = setting("OpenID", "What its button says.")
    oidc_trust_email: bool = setting(False, "Whether its word that an address is verified counts.")
