"""Settings that must go together, and the secret that a development server makes for itself."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hapta.settings import Settings, SettingsError, development_secret, load, secret_path, with_secret

STRONG = "kG7pQ2vXw9ZtR4mN8bYc3LfHs6JdA1eU"


def refused(environ: dict[str, str], cwd: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        load(environ, cwd=cwd)
    return str(caught.value)


@pytest.mark.parametrize(
    "secret", [None, "", "   ", "short", "a" * 64, "your-super-secret-jwt-key-change-this-in-production"]
)
def test_production_refuses_a_missing_short_or_sample_secret(secret: str | None, tmp_path: Path) -> None:
    environ = {"NODE_ENV": "production"} | ({} if secret is None else {"JWT_SECRET": secret})
    assert "identity.jwt_secret" in refused(environ, tmp_path)


def test_production_takes_a_strong_secret(tmp_path: Path) -> None:
    environ = {"NODE_ENV": "production", "JWT_SECRET": STRONG, "HAPTA_SERVER_PUBLIC_URL": "https://example.org"}
    assert load(environ, cwd=tmp_path).identity.jwt_secret == STRONG


def test_production_without_a_public_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"server\.public_url"):
        load({"NODE_ENV": "production", "JWT_SECRET": STRONG}, cwd=tmp_path)


def test_a_previous_secret_is_checked_like_the_secret_and_goes_with_one(tmp_path: Path) -> None:
    environ = {"NODE_ENV": "production", "JWT_SECRET": STRONG, "HAPTA_SERVER_PUBLIC_URL": "https://example.org"}
    for previous in ("short", STRONG, "a" * 64):
        with pytest.raises(SettingsError, match=r"identity\.jwt_secret_previous"):
            load({**environ, "JWT_SECRET_PREVIOUS": previous}, cwd=tmp_path)
    assert load({**environ, "JWT_SECRET_PREVIOUS": STRONG[::-1]}, cwd=tmp_path).identity.jwt_secret_previous
    assert load({**environ, "JWT_SECRET_PREVIOUS": ""}, cwd=tmp_path).identity.jwt_secret_previous == ""
    with pytest.raises(SettingsError, match="it goes with"):
        load({"JWT_SECRET_PREVIOUS": STRONG}, cwd=tmp_path)


def test_a_secret_that_is_set_and_empty_is_refused_in_development_too(tmp_path: Path) -> None:
    assert "identity.jwt_secret" in refused({"JWT_SECRET": ""}, tmp_path)


def test_tls_needs_certificate_and_key_and_both_must_be_there(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.touch()
    assert "only one is set" in refused({"HAPTA_SERVER_TLS_CERT": str(cert)}, tmp_path)
    both = {"HAPTA_SERVER_TLS_CERT": str(cert), "HAPTA_SERVER_TLS_KEY": str(key)}
    assert "server.tls_key: there is no file" in refused(both, tmp_path)
    key.touch()
    assert load(both, cwd=tmp_path).server.tls_key == key


def test_the_older_wish_for_tls_never_ends_in_clear_text(tmp_path: Path) -> None:
    assert "gateway.ssl_enabled" in refused({"SSL_ENABLED": "true"}, tmp_path)


@pytest.mark.parametrize(
    ("environ", "missing"),
    [
        ({}, "PostgreSQL (database.url) and Redis (bus.url)"),
        ({"DATABASE_URL": "postgresql://h/d"}, "need Redis (bus.url)"),
        ({"REDIS_URL": "redis://h"}, "need PostgreSQL (database.url)"),
        ({"REDIS_URL": "redis://h", "DATABASE_URL": "sqlite:///x.db"}, "need PostgreSQL (database.url)"),
    ],
)
def test_several_workers_need_postgresql_and_redis(environ: dict[str, str], missing: str, tmp_path: Path) -> None:
    assert missing in refused({"HAPTA_SERVER_WORKERS": "2", **environ}, tmp_path)


def test_several_workers_start_with_both(tmp_path: Path) -> None:
    environ = {"HAPTA_SERVER_WORKERS": "2", "DATABASE_URL": "postgres://h/d", "REDIS_URL": "redis://h"}
    assert load(environ, cwd=tmp_path).server.workers == 2


def test_a_development_secret_is_made_once_kept_privately_and_announced(tmp_path: Path) -> None:
    data = tmp_path / "data"
    secret, notice = development_secret(data)
    assert len(secret) >= 32
    assert notice is not None
    assert str(secret_path(data)) in notice
    assert secret not in notice
    assert stat.S_IMODE(secret_path(data).stat().st_mode) == 0o600
    assert stat.S_IMODE(secret_path(data).parent.stat().st_mode) == 0o700
    assert development_secret(data) == (secret, None)


def test_processes_that_start_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hapta.settings import development_secret\n"
        "sys.stdin.read(); print(development_secret(Path(sys.argv[1]))[0])"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in started:  # all are loaded and wait: let them go together
        assert process.stdin is not None
        process.stdin.close()
    secrets: list[str] = []
    for process in started:
        assert process.stdout is not None
        with process.stdout:
            secrets.append(process.stdout.read())
        assert process.wait() == 0
    assert len(set(secrets)) == 1
    assert sorted(os.listdir(secret_path(tmp_path).parent)) == ["jwt_secret"]


def test_an_empty_secret_file_is_refused_and_not_replaced(tmp_path: Path) -> None:
    path = secret_path(tmp_path)
    path.parent.mkdir()
    path.touch()
    with pytest.raises(SettingsError, match="jwt_secret"):
        development_secret(tmp_path)
    assert path.read_bytes() == b""


def test_a_data_folder_that_cannot_be_made_is_told_as_a_setting(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(SettingsError, match="cannot keep a development secret"):
        development_secret(blocked / "data")


def test_a_secret_of_ones_own_is_used_and_none_is_made(tmp_path: Path) -> None:
    own = load({"JWT_SECRET": STRONG, "HAPTA_DATA_DIR": str(tmp_path / "data")}, cwd=tmp_path)
    assert with_secret(own) == (own, None)
    assert not (tmp_path / "data").exists()


def test_a_made_secret_changes_nothing_else_in_the_tree(tmp_path: Path) -> None:
    plain = load({"HAPTA_DATA_DIR": str(tmp_path)}, cwd=tmp_path)
    made, _ = with_secret(plain)
    assert made.identity.jwt_secret
    assert made.server == plain.server
    assert isinstance(made, Settings)
