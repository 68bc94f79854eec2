"""Where settings come from, which source wins, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from hapta.kit.fields import duration_seconds
from hapta.settings import (
    Settings,
    SettingsError,
    for_workers,
    from_environment,
    load,
    load_with_origins,
    specs,
)

STRONG = "kG7pQ2vXw9ZtR4mN8bYc3LfHs6JdA1eU"


def problems(environ: dict[str, str], cwd: Path, **overrides: object) -> str:
    with pytest.raises(SettingsError) as caught:
        load(environ, cwd=cwd, overrides={name.replace("__", "."): value for name, value in overrides.items()})
    return "\n".join(caught.value.problems)


def test_without_any_source_every_setting_has_its_default(tmp_path: Path) -> None:
    assert load({}, cwd=tmp_path) == Settings()


def test_each_source_wins_over_the_one_before_it(tmp_path: Path) -> None:
    def port(environ: dict[str, str], **overrides: object) -> int:
        return load(environ, cwd=tmp_path, overrides=overrides).server.port

    assert port({}) == 3000
    (tmp_path / "hapta.toml").write_text("[server]\nport = 4001\n")
    assert port({}) == 4001
    assert port({"PORT": "4002"}) == 4002
    assert port({"PORT": "4002"}, **{"server.port": 4003}) == 4003
    assert port({"PORT": "4002"}, **{"server.port": None}) == 4002


def test_the_origin_of_each_given_setting_is_told(tmp_path: Path) -> None:
    (tmp_path / "hapta.toml").write_text('[log]\nlevel = "debug"\n')
    _, origins = load_with_origins({"PORT": "1"}, cwd=tmp_path, overrides={"server.host": "::1"})
    assert origins == {
        "log.level": str(tmp_path / "hapta.toml"),
        "server.port": "PORT",
        "server.host": "option --host",
    }


def test_another_settings_file_is_named_by_option_or_by_environment(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("[server]\nport = 5001\n")
    (tmp_path / "hapta.toml").write_text("[server]\nport = 5002\n")
    assert load({}, cwd=tmp_path, config_file=other).server.port == 5001
    assert load({"HAPTA_CONFIG": str(other)}, cwd=tmp_path).server.port == 5001
    with pytest.raises(SettingsError, match="is not there"):
        load({"HAPTA_CONFIG": str(tmp_path / "missing.toml")}, cwd=tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "path", "value"),
    [
        ("DATABASE_URL", "postgres://u:p@h/d", "database.url", "postgres://u:p@h/d"),
        ("JWT_SECRET", "short-but-development", "identity.jwt_secret", "short-but-development"),
        ("JWT_EXPIRES_IN", "7d", "identity.jwt_expires_in_seconds", 604_800),
        ("JWT_EXPIRES_IN", "3600", "identity.jwt_expires_in_seconds", 3600),
        ("PORT", "8080", "server.port", 8080),
        (
            "CORS_ORIGIN",
            " https://a.example , https://b.example",
            "server.cors_origin",
            ("https://a.example", "https://b.example"),
        ),
        ("REDIS_URL", "redis://h:1/2", "bus.url", "redis://h:1/2"),
        ("ALLOW_REGISTRATION", "false", "identity.allow_registration", False),
        ("QUOTA_BYTES_DEFAULT", "1000000", "sync.quota_bytes_default", 1_000_000),
        ("TRUST_PROXY", "2", "server.trust_proxy", 2),
        ("COMPACT_AFTER_DAYS", "30", "sync.compact_after_days", 30),
        ("DB_URL", "http://127.0.0.1:8090", "gateway.db_url", "http://127.0.0.1:8090"),
        ("ADMIN_EMAIL", "a@b.example", "gateway.admin_email", "a@b.example"),
        ("ADMIN_PASSWORD", "pw", "gateway.admin_password", "pw"),
        ("HAPTA_ADMIN_KEY", "key", "gateway.admin_key", "key"),
        ("HAPTA_RATELIMIT_ENABLED", "false", "ratelimit.enabled", False),
        ("HAPTA_DATA_DIR", "elsewhere", "data.dir", Path("elsewhere")),
        ("HAPTA_SERVER_SHUTDOWN_SECONDS", "2.5", "server.shutdown_seconds", 2.5),
        ("HAPTA_SERVER_SHUTDOWN_SECONDS", "1m", "server.shutdown_seconds", 60.0),
    ],
)
def test_the_names_in_the_environment_that_are_promised_work(
    name: str, text: str, path: str, value: object, tmp_path: Path
) -> None:
    section, _, field = path.partition(".")
    assert getattr(getattr(load({name: text}, cwd=tmp_path), section), field) == value


PRODUCTION = {"NODE_ENV": "production", "JWT_SECRET": STRONG, "HAPTA_SERVER_PUBLIC_URL": "https://example.org"}


def test_node_env_chooses_production(tmp_path: Path) -> None:
    assert load(PRODUCTION, cwd=tmp_path).server.environment == "production"


def test_every_setting_can_be_set_by_its_own_environment_name(tmp_path: Path) -> None:
    cert = tmp_path / "file.pem"
    cert.touch()
    environ: dict[str, str] = {}
    for spec in specs():
        default = spec.default
        if isinstance(default, bool):
            text = "false" if default else "true"
        elif spec.path == "gateway.cache_identity_share":
            text = "0.5"
        elif isinstance(default, int | float):
            # One more than the default is inside every setting's limits, apart from these, whose default is the most there is.
            least = spec.path in ("otp.email_life_seconds", "otp.phone_life_seconds")
            text = "1" if spec.path == "server.workers" else str(default - 1 if least else default + 1)
        elif spec.path in ("server.auth_url", "server.resource_url"):
            text = "http://127.0.0.1:5999"
        elif spec.path == "identity.jwt_secret_previous":
            text = STRONG[::-1]
        elif spec.path in ("server.tls_cert", "server.tls_key"):
            text = str(cert)
        elif spec.about.form == "rate":
            text = "1/1:1"
        elif spec.about.form:
            text = {"database": "sqlite:///x.db", "bus": "redis://h", "json": "{}"}[spec.about.form]
        elif spec.expected.startswith("one of "):
            text = spec.expected.split(", ")[-1]
        else:
            text = STRONG
        environ[spec.env[0]] = text
    settings = load(environ, cwd=tmp_path)
    same = [s.path for s in specs() if getattr(getattr(settings, s.section), s.name) == s.default]
    assert same == ["server.workers"]


def test_two_names_with_different_values_stop_the_start(tmp_path: Path) -> None:
    said = problems({"PORT": "1", "HAPTA_SERVER_PORT": "2"}, tmp_path)
    assert "HAPTA_SERVER_PORT and PORT are both set and differ" in said
    assert load({"JWT_EXPIRES_IN": "1h", "HAPTA_IDENTITY_JWT_EXPIRES_IN_SECONDS": "3600"}, cwd=tmp_path)


def test_unknown_names_are_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    (tmp_path / "hapta.toml").write_text("stray = 1\n[server]\nprot = 1\n[severs]\na = 1\n")
    said = problems({"HAPTA_SERVER_PROT": "1", "OTHER_PROGRAM": "x"}, tmp_path)
    assert "HAPTA_SERVER_PROT: no setting has this name; did you mean HAPTA_SERVER_PORT?" in said
    assert "server.prot is not a setting; did you mean server.port?" in said
    assert "[severs] is not a section" in said
    assert "[stray] is not a section" in said
    assert "OTHER_PROGRAM" not in said


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("PORT", "http", "a whole number from 0 to 65535"),
        ("PORT", "70000", "a whole number from 0 to 65535"),
        ("PORT", "-1", "a whole number from 0 to 65535"),
        ("PORT", "", "a whole number"),
        ("PORT", "1_0", "a whole number"),
        ("NODE_ENV", "staging", "one of development, production"),
        ("ALLOW_REGISTRATION", "maybe", "true or false"),
        ("CORS_ORIGIN", " , ", "a list of texts"),
        ("DATABASE_URL", "mysql://h/d", "postgres:// or postgresql:// or sqlite://"),
        ("REDIS_URL", "http://h", "redis://"),
        ("JWT_EXPIRES_IN", "7 days", "a whole number of seconds, or one with s, m, h, d or w"),
        ("JWT_EXPIRES_IN", "1s", "at least|from 60"),
        ("HAPTA_RATELIMIT_AUTH", "many", "rate"),
        ("HAPTA_DATABASE_LOCK_TIMEOUT_SECONDS", "nan", "a number"),
    ],
)
def test_a_bad_value_is_refused_with_the_settings_name_and_what_is_expected(
    name: str, text: str, expected: str, tmp_path: Path
) -> None:
    said = problems({name: text}, tmp_path)
    path = next(spec.path for spec in specs() if name in spec.env)
    assert said.startswith(path)
    assert name in said
    assert any(part in said for part in expected.split("|"))


@pytest.mark.parametrize(
    "line", ['port = "x"', "port = true", "port = 1.5", "port = [1]", "cors_origin = [1]", "host = 5"]
)
def test_a_wrong_type_in_the_file_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "hapta.toml").write_text(f"[server]\n{line}\n")
    assert f"server.{line.split()[0]}" in problems({}, tmp_path)


def test_a_file_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hapta.toml").write_text("[server\n")
    assert "cannot be read" in problems({}, tmp_path)


def test_everything_wrong_is_told_at_once_and_no_secret_is_shown(tmp_path: Path) -> None:
    said = problems(
        {
            "PORT": "x",
            "HAPTA_NO_SUCH": "1",
            "DATABASE_URL": "mysql://me:hunter2@h/d",
            "NODE_ENV": "production",
            "JWT_SECRET": "tiny",
        },
        tmp_path,
    )
    for part in ("server.port", "HAPTA_NO_SUCH", "database.url", "identity.jwt_secret"):
        assert part in said
    assert "hunter2" not in said
    assert "tiny" not in said


def test_secrets_are_neither_in_the_trees_text_nor_in_what_is_shown(tmp_path: Path) -> None:
    settings = load(
        {"JWT_SECRET": STRONG, "DATABASE_URL": "postgresql://me:hunter2@h/d", "ADMIN_PASSWORD": "hunter3"}, cwd=tmp_path
    )
    shown = repr(settings) + "".join(
        spec.shown(getattr(getattr(settings, spec.section), spec.name)) for spec in specs()
    )
    for secret in (STRONG, "hunter2", "hunter3"):
        assert secret not in shown
    assert "postgresql://me:***@h/d" in shown


def test_workers_get_exactly_the_settings_of_their_parent(tmp_path: Path) -> None:
    settings = load(
        {"JWT_SECRET": STRONG, "PORT": "5"}, cwd=tmp_path, overrides={"server.port": 6, "data.dir": tmp_path}
    )
    handed = for_workers(settings)
    assert from_environment({"PORT": "5", "HAPTA_LOG_LEVEL": "debug", **handed}) == settings


def test_the_tree_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().server.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("90", 90), ("90s", 90), ("2m", 120), ("3h", 10_800), ("7d", 604_800), ("1w", 604_800)],
)
def test_lengths_of_time_have_units(text: str, seconds: int) -> None:
    assert duration_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "-1", "1.5h", "1y", "7d7", "٣d"])
def test_a_length_of_time_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected seconds"):
        duration_seconds(text)


# --- objects ---


def test_an_object_is_taken_as_json_and_as_a_table(tmp_path: Path) -> None:
    (tmp_path / "hapta.toml").write_text('[gateway.limits.list]\nlimit = 5\nby = ["ip"]\n')
    assert json.loads(load({}, cwd=tmp_path).gateway.limits) == {"list": {"limit": 5, "by": ["ip"]}}
    text = ' {"list": {"limit": 7}} '
    assert load({"HAPTA_GATEWAY_LIMITS": text}, cwd=tmp_path).gateway.limits == text.strip()
    assert load({"HAPTA_GATEWAY_LIMITS": ""}, cwd=tmp_path).gateway.limits == ""


@pytest.mark.parametrize("text", ["[]", "{", "1", "list"])
def test_what_is_no_object_is_refused_where_one_is_expected(tmp_path: Path, text: str) -> None:
    assert "expected a JSON object, or a table" in problems({"HAPTA_GATEWAY_LIMITS": text}, tmp_path)


def test_a_table_with_what_json_has_not_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hapta.toml").write_text("[gateway.limits.list]\nlimit = 1979-05-27\n")
    assert "gateway.limits" in problems({}, tmp_path)
