"""A real PocketBase for tests: a program of its own, with the collections of `pocketbase_schema.py` and a mail box.

Everything here blocks: PocketBase is another process, so a test's loop may stand still while it is asked directly.
"""

from __future__ import annotations

import contextlib
import email
import email.policy
import queue
import re
import secrets
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.gateway.pocketbase_schema import COLLECTIONS, TABLES, settings
from tests.servers import Run, Server, free_port

Json = Any

EMAIL = "root@example.com"
PASSWORD = "root-password"
BINARY = Path(sys.executable).parent / "pocketbase"


class PocketBaseServer(Server):
    """PocketBase on a loopback port of its own.

    Args:
        template: a data folder to start from (a copy of it); an empty one with a superuser when left out.
        arguments: further ones of `serve`.
    """

    name = "pocketbase"

    def __init__(
        self, run: Run, *, port: int | None = None, template: Path | None = None, arguments: tuple[str, ...] = ()
    ) -> None:
        super().__init__(run, port=port)
        self.data = self.folder / "pb_data"
        self._template = template
        self._arguments = arguments

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _spawn(self, log: Any) -> subprocess.Popen[bytes]:
        if not self.data.exists():
            if self._template is not None:
                shutil.copytree(self._template, self.data)
            else:
                self._run("superuser", "upsert", EMAIL, PASSWORD)
        return subprocess.Popen(
            [BINARY, "serve", f"--http=127.0.0.1:{self.port}", *self._folders(), *self._arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.folder,
            start_new_session=True,
        )

    def _run(self, *arguments: str) -> None:
        subprocess.run([BINARY, *arguments, *self._folders()], check=True, capture_output=True, cwd=self.folder)

    def _folders(self) -> list[str]:
        hooks = self.folder / "pb_hooks"
        return [f"--dir={self.data}", f"--hooksDir={hooks}", "--hooksPool=1", "--automigrate=false"]

    def _ready(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5):
            # Routes are there before the port listens.
            return True
        return False


class PocketBaseHouse:
    """A running PocketBase and a superuser in it: what fixtures hand to tests.

    Attributes:
        url: of PocketBase itself.
        email, password: of the superuser.
        server: the program, to kill, pause, resume, restart.
        mails: what PocketBase sent.
    """

    email = EMAIL
    password = PASSWORD

    def __init__(self, server: PocketBaseServer, mails: Mails) -> None:
        self.server = server
        self.mails = mails
        self.url = server.url
        self.http = httpx.Client(base_url=server.url, timeout=120)
        self._token = ""

    def close(self) -> None:
        self.http.close()

    # --- as the superuser ---

    @property
    def token(self) -> str:
        """The superuser's token."""
        if not self._token:
            self._token = self.login("_superusers", EMAIL, PASSWORD)["token"]
        return self._token

    def request(self, method: str, path: str, json: Json = None, **options: Any) -> Json:
        """Asks as the superuser; the decoded answer. Anything but a 2xx raises."""
        answer = self.http.request(method, path, json=json, headers={"Authorization": self.token}, **options)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def create(self, collection: str, files: Any = None, **fields: Any) -> Json:
        """Makes a record past all rules. `files` as httpx takes them: `{"image": ("a.png", b"...", "image/png")}`."""
        path = f"/api/collections/{collection}/records"
        if files is None:
            return self.request("POST", path, fields)
        return self.request("POST", path, data=fields, files=files)

    def update(self, collection: str, record_id: str, **fields: Any) -> Json:
        return self.request("PATCH", f"/api/collections/{collection}/records/{record_id}", fields)

    def delete(self, collection: str, record_id: str) -> None:
        self.request("DELETE", f"/api/collections/{collection}/records/{record_id}")

    def records(self, collection: str) -> list[Json]:
        return self.request("GET", f"/api/collections/{collection}/records?perPage=1000")["items"]

    def collection(self, name: str) -> Json:
        """What PocketBase says of a collection."""
        return self.request("GET", f"/api/collections/{name}")

    def settings(self, **sections: Any) -> Json:
        return self.request("PATCH", "/api/settings", sections)

    def sql(self, statements: str) -> Json:
        """Statements past PocketBase's own models: no event tells of them."""
        return self.request("POST", "/api/sql", {"query": statements})

    # --- as somebody ---

    def login(self, collection: str, identity: str, password: str) -> Json:
        answer = self.http.post(
            f"/api/collections/{collection}/auth-with-password", json={"identity": identity, "password": password}
        )
        assert answer.is_success, answer.text
        return answer.json()

    def person(self, name: str = "", collection: str = "users", **fields: Any) -> Person:
        """A new record of people, verified, with an address and a password of its own.

        Args:
            name: also the username and the start of the address; a random one when left out.
        """
        name = name or f"p{secrets.token_hex(5)}"
        password = secrets.token_hex(8)
        given = {"name": name, "username": name} if collection == "users" else {}
        record = self.create(
            collection,
            email=f"{name}@example.com",
            password=password,
            passwordConfirm=password,
            verified=True,
            **{**given, **fields},
        )
        return Person(self, record, password)

    # --- between tests ---

    def empty(self) -> None:
        """Removes all records but those of superusers, without an event, and all mail."""
        tables = [*TABLES, "_mfas", "_otps", "_authOrigins", "_externalAuths"]
        self.sql(";".join(f"DELETE FROM `{table}`" for table in tables))
        self.mails.clear()


class Person:
    """A record of people, and PocketBase's own token for it."""

    def __init__(self, house: PocketBaseHouse, record: Json, password: str) -> None:
        self.record = record
        self.id: str = record["id"]
        self.email: str = record["email"]
        self.collection_id: str = record["collectionId"]
        self.collection: str = record["collectionName"]
        self.password = password
        self._house = house
        self._token = ""

    @property
    def token(self) -> str:
        """PocketBase's token; logs in at first use."""
        if not self._token:
            self._token = self._house.login(self.collection, self.email, self.password)["token"]
        return self._token


class Mails:
    """A mail server that keeps what it gets."""

    def __init__(self) -> None:
        self._arrived: queue.Queue[tuple[list[str], str, str]] = queue.Queue()
        self._controller = _Controller(self, hostname="127.0.0.1", port=free_port())

    @property
    def port(self) -> int:
        return self._controller.port

    def start(self) -> None:
        self._controller.start()

    def stop(self) -> None:
        self._controller.stop()

    def clear(self) -> None:
        while not self._arrived.empty():
            self._arrived.get_nowait()

    def next(self, seconds: float = 120.0, *, holding: str = "") -> tuple[list[str], str, str]:
        """The next mail: recipients, subject, text. Waits for it; `queue.Empty` when none comes.

        Args:
            holding: a pattern that its text must hold. PocketBase sends beside its work, so a notice of a login which an
                earlier test caused may still arrive.
        """
        while True:
            mail = self._arrived.get(timeout=seconds)
            if re.search(holding, mail[2]):
                return mail

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        body = message.get_body(("plain", "html"))
        text = body.get_content() if body is not None else ""
        self._arrived.put((list(envelope.rcpt_tos), str(message["subject"]), text))
        return "250 kept"


class _Controller(Controller):
    def factory(self) -> SMTP:
        return SMTP(self.handler, enable_SMTPUTF8=True)


def make_template(run: Run, mails: Mails) -> Path:
    """A data folder with the superuser, the collections and the settings, to be copied by those who start from it."""
    server = PocketBaseServer(run)
    server.start()
    house = PocketBaseHouse(server, mails)
    house.request("PUT", "/api/collections/import", {"collections": COLLECTIONS, "deleteMissing": False})
    house.request("PATCH", "/api/settings", settings(mails.port))
    house.close()
    server.stop()
    return server.data
