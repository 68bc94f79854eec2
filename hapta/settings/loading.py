"""The only reader of the environment and of hapta.toml.

Each field carries its own documentation; `hapta settings --markdown` turns it into docs/settings.md. `load()` merges, from
weak to strong: defaults, hapta.toml, environment, the command's options. It either returns a tree whose every value was
checked, or raises one `SettingsError` that lists all that is wrong. Nothing else in Hapta looks at the environment.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, cast, get_type_hints
from urllib.parse import urlsplit

import msgspec

from hapta.kit.fields import Spec, convert
from hapta.kit.secrets import WeakSecret, check_secret, load_or_create_secret
from hapta.settings.tree import Settings


class SettingsError(Exception):
    """The settings cannot be used. `problems` holds one sentence for each thing that is wrong; none shows a secret."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(["The settings cannot be used:", *(f"  - {problem}" for problem in problems)]))


# --- the tree as a list ---


@cache
def sections() -> tuple[tuple[str, type[Any]], ...]:
    """Names of the sections, in order, with their classes."""
    kinds = get_type_hints(Settings)
    return tuple((f.name, kinds[f.name]) for f in dataclasses.fields(Settings))


@cache
def specs() -> tuple[Spec, ...]:
    """Every setting, in the order of the tree."""
    found: list[Spec] = []
    for section, kind in sections():
        hints = get_type_hints(kind)
        found += [
            Spec(section, f.name, hints[f.name], f.default, f.metadata["about"]) for f in dataclasses.fields(kind)
        ]
    return tuple(found)


# --- loading ---

CONFIG_ENV: Final = "HAPTA_CONFIG"
RESOLVED_ENV: Final = "HAPTA_RESOLVED_SETTINGS"
OTHERS: Final = (
    "HAPTA_VAULT_",
    "HAPTA_BENCH_",
    "HAPTA_PASSWORD",
    "HAPTA_NEW_PASSWORD",
    "HAPTA_PASSPHRASE",
)
"""Beginnings of names in the environment that the client and the bench read; the server passes them by."""


@dataclass(frozen=True, slots=True)
class _Given:
    value: object
    origin: str


def load(
    environ: Mapping[str, str],
    *,
    overrides: Mapping[str, object] | None = None,
    config_file: Path | None = None,
    cwd: Path | None = None,
) -> Settings:
    """Reads the settings.

    Args:
        environ: usually `os.environ`.
        overrides: the command's options by path (`{"server.port": 4000}`); None as a value means "not given".
        config_file: the file to read in place of the one in `HAPTA_CONFIG` or of `hapta.toml` in the working folder.
        cwd: folder in which `hapta.toml` is looked for; the working folder when left out.

    Raises:
        SettingsError: an unknown name, a bad value, or values that do not go together; all of them are listed.
    """
    return load_with_origins(environ, overrides=overrides, config_file=config_file, cwd=cwd)[0]


def load_with_origins(
    environ: Mapping[str, str],
    *,
    overrides: Mapping[str, object] | None = None,
    config_file: Path | None = None,
    cwd: Path | None = None,
) -> tuple[Settings, dict[str, str]]:
    """Like `load`, and says for each setting that was given where it came from (`{"server.port": "PORT"}`)."""
    problems: list[str] = []
    given = _from_file(_config_path(environ, config_file, cwd or Path.cwd(), problems), problems)
    given |= _from_environment(environ, problems)
    known = {spec.path: spec for spec in specs()}
    for path, value in (overrides or {}).items():
        if value is not None:
            given[path] = _Given(value, f"option --{path.rpartition('.')[2].replace('_', '-')}")
    values: dict[str, dict[str, object]] = {name: {} for name, _ in sections()}
    for path, entry in given.items():
        spec = known[path]
        try:
            values[spec.section][spec.name] = convert(spec, entry.value)
        except ValueError as error:
            problems.append(f"{path}: {_bad_value(spec, entry, str(error))}")
    settings = Settings(**{name: kind(**values[name]) for name, kind in sections()})
    problems += _cross_checks(settings, given)
    if problems:
        raise SettingsError(problems)
    return settings, {path: entry.origin for path, entry in given.items()}


def from_environment(environ: Mapping[str, str]) -> Settings:
    """The settings inside a worker process: those its parent handed over in one variable, or else `load(environ)`."""
    resolved = environ.get(RESOLVED_ENV)
    if resolved is None:
        return load(environ)
    return msgspec.json.decode(resolved, type=Settings, dec_hook=_decode_path)


def for_workers(settings: Settings) -> dict[str, str]:
    """What the parent adds to the environment of its workers, so that options and a made secret reach them unchanged."""
    return {RESOLVED_ENV: msgspec.json.encode(settings, enc_hook=str).decode()}


def _decode_path(kind: type[Any], value: Any) -> Any:
    return kind(value)


def _config_path(environ: Mapping[str, str], config_file: Path | None, cwd: Path, problems: list[str]) -> Path | None:
    named = config_file or (Path(environ[CONFIG_ENV]) if environ.get(CONFIG_ENV) else None)
    path = cwd / (named or "hapta.toml")
    if path.is_file():
        return path
    if named is not None:
        problems.append(
            f"{path}: the settings file is not there; it was named by {'--config' if config_file else CONFIG_ENV}"
        )
    return None


def _from_file(path: Path | None, problems: list[str]) -> dict[str, _Given]:
    if path is None:
        return {}
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"{path}: cannot be read: {error}")
        return {}
    known = {spec.path for spec in specs()}
    names = {name for name, _ in sections()}
    given: dict[str, _Given] = {}
    for section, content in document.items():
        if section not in names:
            problems.append(f"{path}: [{section}] is not a section; known are {', '.join(sorted(names))}")
        elif not isinstance(content, dict):
            problems.append(f"{path}: {section} must be a section, written [{section}]")
        else:
            for name, value in cast("dict[str, object]", content).items():
                if f"{section}.{name}" in known:
                    given[f"{section}.{name}"] = _Given(value, str(path))
                else:
                    problems.append(f"{path}: {section}.{name} is not a setting{_near(f'{section}.{name}', known)}")
    return given


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, _Given]:
    given: dict[str, _Given] = {}
    names: set[str] = {CONFIG_ENV, RESOLVED_ENV}
    for spec in specs():
        names.update(spec.env)
        found = [name for name in spec.env if name in environ]
        if not found:
            continue
        first = environ[found[0]]
        for other in found[1:]:
            if not _same(spec, first, environ[other]):
                problems.append(f"{spec.path}: {found[0]} and {other} are both set and differ; remove one of them")
        given[spec.path] = _Given(first, found[0])
    for name in sorted(environ):
        if name.startswith("HAPTA_") and name not in names and not name.startswith(OTHERS):
            problems.append(f"{name}: no setting has this name{_near(name, names)}")
    return given


def _same(spec: Spec, one: str, other: str) -> bool:
    try:
        return convert(spec, one) == convert(spec, other)
    except ValueError:
        return one == other


def _near(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _bad_value(spec: Spec, entry: _Given, why: str) -> str:
    value = "the value (not shown)" if spec.about.hidden else repr(entry.value)
    return f"{value} from {entry.origin} is not usable: {why}"


# --- values that must go together ---


def is_postgres(settings: Settings) -> bool:
    """Whether the database is PostgreSQL."""
    return urlsplit(settings.database.url).scheme in ("postgres", "postgresql")


def _cross_checks(settings: Settings, given: Mapping[str, _Given]) -> list[str]:
    return [
        *_check_secret(settings, given),
        *_check_tls(settings),
        *_check_workers(settings),
        *_check_public_url(settings),
        *_check_role(settings),
    ]


def _check_secret(settings: Settings, given: Mapping[str, _Given]) -> list[str]:
    production = settings.server.environment == "production"
    if not production and "identity.jwt_secret" not in given:
        # A development server makes one, and keeps the one before it beside it.
        if "identity.jwt_secret_previous" not in given:
            return []
        return [f"{_PREVIOUS}: it goes with identity.jwt_secret, which is not set"]
    # Set and empty is refused in development too: somebody meant to set it, and a made secret would hide that
    # (docs/sync.md, environment).
    try:
        check_secret(settings.identity.jwt_secret, production=production)
    except WeakSecret as error:
        return [f"identity.jwt_secret (HAPTA_IDENTITY_JWT_SECRET or JWT_SECRET): {error}"]
    return _check_previous(settings, production)


def _check_previous(settings: Settings, production: bool) -> list[str]:
    own = settings.identity
    if not own.jwt_secret_previous:
        return []  # an empty one stands for none: that is how a line of a service file is switched off
    if own.jwt_secret_previous == own.jwt_secret:
        return [f"{_PREVIOUS}: it is the same as identity.jwt_secret; give the secret before that one, or none"]
    try:
        check_secret(own.jwt_secret_previous, production=production)
    except WeakSecret as error:
        return [f"{_PREVIOUS}: {error}"]
    return []


_PREVIOUS: Final = "identity.jwt_secret_previous (HAPTA_IDENTITY_JWT_SECRET_PREVIOUS or JWT_SECRET_PREVIOUS)"


def _check_tls(settings: Settings) -> list[str]:
    cert, key = settings.server.tls_cert, settings.server.tls_key
    problems = [
        f"server.{name}: there is no file {str(path)!r}"
        for name, path in (("tls_cert", cert), ("tls_key", key))
        if path is not None and not path.is_file()
    ]
    if (cert is None) != (key is None):
        problems.append("server.tls_cert and server.tls_key: TLS needs both, and only one is set")
    if settings.gateway.ssl_enabled and cert is None:
        problems.append("gateway.ssl_enabled: TLS is asked for, so set server.tls_cert and server.tls_key")
    return problems


def _check_workers(settings: Settings) -> list[str]:
    if settings.server.workers == 1:
        return []
    missing = [
        name
        for name, there in (
            ("PostgreSQL (database.url)", is_postgres(settings)),
            ("Redis (bus.url)", bool(settings.bus.url)),
        )
        if not there
    ]
    if not missing:
        return []
    return [f"server.workers: {settings.server.workers} processes need {' and '.join(missing)}; start one, or set them"]


def _check_public_url(settings: Settings) -> list[str]:
    server = settings.server
    if server.environment != "production" or server.public_url:
        return []
    return [
        "server.public_url: production needs the address under which the world knows this server, like https://example.org:"
        " it is the issuer of tokens and stands in mails and cookies"
    ]


def _check_role(settings: Settings) -> list[str]:
    server = settings.server
    if server.role == "all":
        return []
    problems: list[str] = []
    if server.role == "resource" and server.port == server.internal_port:
        problems.append("server.internal_port: it must differ from server.port, which the world may reach")
    for name, url in (("auth_url", server.auth_url), ("resource_url", server.resource_url)):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            problems.append(f"server.{name}: write it like http://127.0.0.1:5001")
    return problems


# --- the secret of a development server ---


def secret_path(data_dir: Path) -> Path:
    """Where a development server keeps the key that signs its tokens."""
    return data_dir / "secrets" / "jwt_secret"


def previous_secret_path(data_dir: Path) -> Path:
    """Where it keeps the one before, while that still counts (`hapta secret rotate`)."""
    return secret_path(data_dir).with_name("jwt_secret.previous")


def development_secret(data_dir: Path) -> tuple[str, str | None]:
    """The signing key of a development server: the one kept in the data folder, or a new one that is kept from now on.

    Several processes may call this at once: all get the same key.

    Returns:
        The key, and a line to tell the operator when a new one was made.

    Raises:
        SettingsError: the file is there and cannot be used, or cannot be written.
    """
    path = secret_path(data_dir)
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        secret, made = load_or_create_secret(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"identity.jwt_secret: cannot keep a development secret in {path}: {error}"]) from error
    except WeakSecret as error:
        raise SettingsError([f"identity.jwt_secret: {error}"]) from error
    if not made:
        return secret, None
    return secret, f"Made a secret for development and kept it in {path}; every session ends if it is lost."


def with_secret(settings: Settings) -> tuple[Settings, str | None]:
    """The settings with a signing key: their own, or a development server's. The text is for the operator, if there is any."""
    if settings.identity.jwt_secret:
        return settings, None
    secret, notice = development_secret(settings.data.dir)
    previous = _previous_secret(settings.data.dir)
    identity = dataclasses.replace(
        settings.identity, jwt_secret=secret, jwt_secret_previous="" if previous == secret else previous
    )
    return dataclasses.replace(settings, identity=identity), notice


def _previous_secret(data_dir: Path) -> str:
    path = previous_secret_path(data_dir)
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"identity.jwt_secret_previous: cannot read {path}: {error}"]) from error
