"""`hapta serve` as a process: where it listens, what it says, what it refuses, how it ends."""

from __future__ import annotations

import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import Command, clean_environment

STRONG = "kG7pQ2vXw9ZtR4mN8bYc3LfHs6JdA1eU"


class Served:
    """A running `hapta serve`; `url` is read from the line it prints."""

    def __init__(self, folder: Path, *words: str, **environ: str) -> None:
        self.errors = (folder / "stderr.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hapta", "serve", "--port", "0", *words],
            cwd=folder,
            env=clean_environment(**environ),
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        found = re.search(r"https?://\S+", self.line)
        self.url = found[0] if found else ""

    def told(self) -> str:
        self.errors.seek(0)
        return self.errors.read()

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@pytest.fixture
def serve(folder: Path) -> Iterator[list[Served]]:
    """Servers that a test started; those that still run are killed with it."""
    started: list[Served] = []
    yield started
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        if one.process.stdout is not None:
            one.process.stdout.close()
        one.errors.close()


def test_it_says_where_it_listens_and_answers_there(folder: Path, serve: list[Served]) -> None:
    server = Served(folder)
    serve.append(server)
    assert re.fullmatch(r"Hapta \S+ listens on http://127\.0\.0\.1:\d+\n", server.line), server.told()
    answer = httpx.get(server.url, timeout=120)
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    assert "server" not in answer.headers
    assert server.end() == 0


def test_a_development_server_tells_of_the_secret_it_made_once(folder: Path, serve: list[Served]) -> None:
    for times in (1, 0):
        server = Served(folder, "--data", "d")
        serve.append(server)
        httpx.get(server.url, timeout=120)
        server.end()
        assert server.told().count("Made a secret for development") == times
    assert (folder / "d" / "secrets" / "jwt_secret").is_file()


def test_commands_work_beside_a_running_server(folder: Path, serve: list[Served], hapta: Command) -> None:
    server = Served(folder)
    serve.append(server)
    hapta("user", "add", "ada@example.org", "--password-stdin", stdin="correct horse battery staple\n")
    login = {"email": "ada@example.org", "password": "correct horse battery staple"}
    token = httpx.post(f"{server.url}/auth/login", json=login).json()["token"]
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"{server.url}/auth/me", headers=headers).status_code == 200
    assert hapta("doctor").stdout.endswith("Nothing is wrong.\n")
    hapta("backup", "copy")
    hapta("user", "delete", "ada@example.org", "--yes")
    assert httpx.post(f"{server.url}/auth/login", json=login).status_code == 401


def test_production_without_a_secret_refuses_to_start(hapta: Command, folder: Path) -> None:
    refused = hapta("serve", "--port", "0", status=2, env={"NODE_ENV": "production"})
    assert "identity.jwt_secret" in refused.stderr
    assert list(folder.iterdir()) == []


def test_several_workers_on_sqlite_refuse_to_start(hapta: Command) -> None:
    refused = hapta("serve", "--port", "0", "--workers", "2", status=2)
    assert "PostgreSQL" in refused.stderr
    assert "Redis" in refused.stderr


def test_a_port_in_use_is_told_in_one_line(hapta: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = hapta("serve", "--port", port, status=1, env={"JWT_SECRET": STRONG})
    assert f"Cannot listen on 127.0.0.1 port {port}" in refused.stderr


def test_two_workers_serve_on_postgresql_and_redis(
    folder: Path, serve: list[Served], postgres_url: str, redis_url: str
) -> None:
    server = Served(folder, "--workers", "2", DATABASE_URL=postgres_url, REDIS_URL=redis_url)
    serve.append(server)
    assert "with 2 workers" in server.line, server.told()
    password = "correct horse battery staple"
    account = httpx.post(
        f"{server.url}/auth/register", json={"email": "ada@example.org", "password": password}, timeout=60
    )
    assert account.status_code == 201
    headers = {"Authorization": f"Bearer {account.json()['token']}"}
    # A new connection each time: whichever worker takes it knows the token, so both have the one secret.
    assert {httpx.get(f"{server.url}/auth/me", headers=headers).status_code for _ in range(8)} == {200}
    assert server.end() == 0


def test_tls_is_spoken_with_certificate_and_key(folder: Path, serve: list[Served]) -> None:
    cert, key = certificate(folder)
    server = Served(folder, "--tls-cert", str(cert), "--tls-key", str(key))
    serve.append(server)
    assert server.url.startswith("https://")
    assert (
        httpx.get(f"{server.url}/healthz", verify=ssl.create_default_context(cafile=cert), timeout=120).status_code
        == 200
    )


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hapta test")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key.write_bytes(pem)
    return cert, key
