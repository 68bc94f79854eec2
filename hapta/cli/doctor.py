"""`hapta doctor`: looks at an installation from outside, says what is wrong and how to mend it, and changes nothing.

Every check yields findings; a check that cannot run is a finding itself, so one broken part never hides the others.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import typer

from hapta.cli.context import ConfigOption, DataOption, connected, databases, read_settings, run, size_text, sqlite_file
from hapta.cli.main import CommandError
from hapta.kit.clock import SystemClock, iso_ms
from hapta.kit.errors import Unavailable
from hapta.settings import Settings, SettingsError, is_postgres, previous_secret_path, secret_path, with_secret

LOW_DISK_BYTES: Final = 1024**3
CLOCK_SKEW_SECONDS: Final = 2.0
MIN_MASTER_SECRET: Final = 32
"""Characters (contract relay, section 12.5)."""
EARLIEST_MS: Final = 1_735_689_600_000
"""2025-01-01: a clock before it was never set."""
DATABASE_CLOCK: Final = """
    SELECT /*sqlite: CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) */
    /*postgres: (extract(epoch FROM clock_timestamp()) * 1000)::bigint */"""


class Finding(NamedTuple):
    """What a check saw. `mend` says what to do about it."""

    level: Literal["ok", "warn", "bad"]
    part: str
    text: str
    mend: str = ""


def doctor(data: DataOption = None, config: ConfigOption = None) -> None:
    """Say what is wrong here and how to mend it."""
    findings = run(_examine(data, config))
    marks = {"ok": "ok  ", "warn": "warn", "bad": "BAD "}
    for finding in findings:
        typer.echo(f"{marks[finding.level]}  {finding.part:<9} {finding.text}")
        if finding.mend:
            typer.echo(f"      {'':<9} -> {finding.mend}")
    bad = sum(finding.level == "bad" for finding in findings)
    typer.echo(f"\n{bad} problem(s) found." if bad else "\nNothing is wrong.")
    if bad:
        raise typer.Exit(1)


async def _examine(data: Path | None, config: Path | None) -> list[Finding]:
    try:
        settings = read_settings(data, config)
    except SettingsError as error:
        # Without settings there is nothing to connect to; all that is wrong with them is told at once.
        return [Finding("bad", "settings", problem, "see docs/settings.md") for problem in error.problems]
    findings = [*_settings(settings), *_relay(settings), *_disk(settings), *_blobs(settings)]
    for one in databases(settings):
        part = "database" if one is settings else "auth db"
        findings += [finding async for finding in _database(one, part)]
    findings += [finding async for finding in _secret(settings)]
    findings += [finding async for finding in _redis(settings)]
    return findings


def _settings(settings: Settings) -> Iterator[Finding]:
    server = settings.server
    yield Finding("ok", "settings", f"all values can be used; environment {server.environment}")
    if server.environment == "development" and server.host not in ("127.0.0.1", "localhost", "::1"):
        mend = "set server.environment = production and identity.jwt_secret"
        yield Finding("warn", "settings", f"a development server listens on {server.host}", mend)
    if server.environment == "production" and server.tls_cert is None and server.trust_proxy == 0:
        mend = "set server.tls_cert and server.tls_key, or server.trust_proxy if a reverse proxy does TLS"
        yield Finding("warn", "settings", "traffic is not encrypted on its way to this server", mend)
    if not settings.ratelimit.enabled:
        yield Finding("warn", "settings", "rate limits are off", "remove ratelimit.enabled = false")


def _relay(settings: Settings) -> Iterator[Finding]:
    """Settings of the relay that contradict each other, or are half there."""
    relay = settings.relay
    if not relay.enabled:
        return
    found: list[Finding] = []
    if 0 < len(relay.master_secret) < MIN_MASTER_SECRET:
        found.append(
            Finding(
                "bad",
                "relay",
                f"relay.master_secret has fewer than {MIN_MASTER_SECRET} characters: the server does not start",
                "set the one of the server that the data came from, or remove it",
            )
        )
    github = (relay.github_client_id, relay.github_client_secret)
    if any(github) and not all(github):
        mend = "set relay.github_client_id and relay.github_client_secret, or neither"
        found.append(Finding("bad", "relay", "GitHub is half configured", mend))
    if all(github) and not relay.github_redirect_url and not settings.server.public_url:
        mend = "set server.public_url or relay.github_redirect_url"
        found.append(Finding("warn", "relay", "GitHub sends people back to this machine's own address", mend))
    if relay.github_webhook_secret and not all(github):
        mend = "set relay.github_client_id and relay.github_client_secret, or remove the webhook's secret"
        found.append(Finding("warn", "relay", "GitHub's webhook has a secret, and GitHub is off", mend))
    if relay.debug_log and settings.server.environment == "production":
        mend = "remove relay.debug_log"
        found.append(Finding("warn", "relay", "apps may write into the log of a production server", mend))
    if relay.voice_requires_subscription and not relay.elevenlabs_api_key:
        mend = "set relay.elevenlabs_api_key, or remove relay.voice_requires_subscription"
        found.append(Finding("warn", "relay", "voice asks for a subscription, and is off", mend))
    if relay.max_message_bytes > relay.max_frame_bytes:
        mend = "set relay.max_frame_bytes to more than relay.max_message_bytes"
        found.append(Finding("warn", "relay", "a frame cannot hold the largest message", mend))
    yield from found or [Finding("ok", "relay", "its settings fit together")]


def _blobs(settings: Settings) -> Iterator[Finding]:
    """Whether the folder for the bytes of files can be written, or the bucket's settings are whole."""
    own, files = settings.blobs, settings.files
    parts = urlsplit(own.url)
    if files.max_attachment_bytes > settings.server.max_body_bytes:
        mend = "raise server.max_body_bytes, or lower files.max_attachment_bytes"
        yield Finding("warn", "files", "an attachment may be larger than a request", mend)
    if own.url and parts.scheme not in ("disk", "s3"):
        yield Finding("bad", "files", "blobs.url names no store", "use disk:, disk:///path or s3://bucket/prefix")
    elif parts.scheme == "s3":
        if bool(own.access_key_id) != bool(own.secret_access_key):
            mend = "set both, or neither where the machine itself has credentials"
            yield Finding("bad", "files", "half of the key to the bucket is missing", mend)
        else:
            yield Finding("ok", "files", "they lie in a bucket, which is not asked from here")
    else:
        folder = Path(unquote(parts.path)) if parts.path else settings.data.dir / "blobs"
        there = folder if folder.is_dir() else next((p for p in folder.absolute().parents if p.is_dir()), Path("/"))
        if _writable(there):
            yield Finding("ok", "files", f"they lie in {folder}")
        else:
            yield Finding(
                "bad", "files", f"{there} cannot be written by this user", "run as the server's user, or chown it"
            )


def _disk(settings: Settings) -> Iterator[Finding]:
    folder = settings.data.dir
    there = folder if folder.is_dir() else next((p for p in folder.absolute().parents if p.is_dir()), Path("/"))
    if there is not folder:
        yield Finding("warn", "disk", f"{folder} is not there yet", "the first start makes it; or name it with --data")
    free = shutil.disk_usage(there).free
    if free < LOW_DISK_BYTES:
        yield Finding("bad", "disk", f"{size_text(free)} free for {folder}", "make room, or move the data folder")
    else:
        yield Finding("ok", "disk", f"{size_text(free)} free for {folder}")
    if not _writable(there):
        yield Finding("bad", "disk", f"{there} cannot be written by this user", "run as the server's user, or chown it")
    secrets = secret_path(folder).parent, secret_path(folder), previous_secret_path(folder)
    for path in (folder, *secrets, *map(sqlite_file, databases(settings))):
        if path is not None and path.exists():
            yield from _private(path)


def _writable(folder: Path) -> bool:
    import tempfile

    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-"):
            return True
    except OSError:
        return False


def _private(path: Path) -> Iterator[Finding]:
    mode = stat.S_IMODE(path.stat().st_mode)
    wanted = 0o700 if path.is_dir() else 0o600
    # The data folder itself may be entered by others; what lies in it may not be read.
    if mode & 0o077 and (path.is_file() or path.name == "secrets"):
        yield Finding("bad", "secrets", f"others may open {path} (mode {mode:04o})", f"chmod {wanted:o} {path}")


async def _database(settings: Settings, part: str) -> AsyncIterator[Finding]:
    from hapta.db import migrate
    from hapta.db.connect import BadDatabaseUrl

    engine = "PostgreSQL" if is_postgres(settings) else "SQLite"
    clock = SystemClock()
    try:
        async with connected(settings) as db:
            before = clock.now_ms()
            theirs = await db.read(lambda tx: tx.fetch_value(DATABASE_CLOCK))
            yield Finding("ok", part, f"{engine} answers in {max(clock.now_ms() - before, 0)} ms")
            yield _clock(before, int(theirs), clock.now_ms())
            try:
                missing = await migrate.pending(db)
            except migrate.MigrationError as error:
                yield Finding(
                    "bad", "schema", str(error), "install the release that made this database, or a later one"
                )
            else:
                yield _schema(settings, len(missing))
    except CommandError as error:
        yield Finding("warn", part, str(error))
    except (Unavailable, BadDatabaseUrl) as error:
        mend = "check database.url and that the database runs" if is_postgres(settings) else "see the disk's findings"
        yield Finding("bad", part, str(error), mend)


async def _secret(settings: Settings) -> AsyncIterator[Finding]:
    """Whether the configured secret opens what is stored, and whether the one before it is still needed."""
    from hapta.cli.secret import last_token_ends_at, stand
    from hapta.db.connect import BadDatabaseUrl
    from hapta.db.migrate import MigrationError
    from hapta.identity.roots import REFUSAL

    if not settings.identity.jwt_secret and not secret_path(settings.data.dir).is_file():
        return  # no server has run here
    try:
        found = await stand(settings)
    except (CommandError, MigrationError, Unavailable, BadDatabaseUrl):
        return  # the findings of the database say why
    previous = with_secret(settings)[0].identity.jwt_secret_previous
    mend = "hapta secret forget, or remove identity.jwt_secret_previous, and restart"
    if found.foreign:
        yield Finding("bad", "secret", REFUSAL)
    elif not previous:
        if found.current:
            yield Finding("ok", "secret", "it opens what is stored")
    elif found.other:
        yield Finding("warn", "secret", "what is stored is still sealed under the previous one", "restart the server")
    elif (ends_at := last_token_ends_at(settings, found)) > SystemClock().now_ms():
        yield Finding("ok", "secret", f"the previous one may go after {iso_ms(ends_at)}, when its last tokens are over")
    else:
        yield Finding("warn", "secret", "the previous one is not needed any more", mend)


def _schema(settings: Settings, missing: int) -> Finding:
    if not missing:
        return Finding("ok", "schema", "up to date")
    level = "warn" if settings.database.auto_migrate else "bad"
    return Finding(level, "schema", f"{missing} migration(s) are not applied yet", "hapta migrate")


def _clock(before_ms: int, theirs_ms: int, after_ms: int) -> Finding:
    if before_ms < EARLIEST_MS:
        return Finding("bad", "clock", "this machine's clock is not set", "turn time synchronisation on (NTP)")
    off = max(before_ms - theirs_ms, theirs_ms - after_ms, 0) / 1000
    if off > CLOCK_SKEW_SECONDS:
        text = f"the database's clock and this machine's are {off:.1f} s apart"
        return Finding("bad", "clock", text, "turn time synchronisation on (NTP) on both")
    return Finding("ok", "clock", "this machine and the database agree")


async def _redis(settings: Settings) -> AsyncIterator[Finding]:
    if not settings.bus.url:
        yield Finding("ok", "bus", "inside the one process")
        return
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    client = Redis.from_url(settings.bus.url, socket_connect_timeout=5, socket_timeout=5)  # pyright: ignore[reportUnknownMemberType]
    try:
        await client.ping()  # pyright: ignore[reportGeneralTypeIssues, reportUnknownMemberType]
    except (RedisError, OSError) as error:
        yield Finding("bad", "bus", f"Redis does not answer: {error}", "check bus.url and that Redis runs")
    else:
        yield Finding("ok", "bus", "Redis answers")
    finally:
        await client.aclose()
