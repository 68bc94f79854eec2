"""The example app does what its page says, by the commands on that page."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.clients.oauth_house import PASSWORD, SETTINGS
from tests.clients.oauth_person import Forms, Person
from tests.servers import REPOSITORY, Run, free_port

EXAMPLE = REPOSITORY / "examples/oauth-app"


@dataclass
class Example:
    """Both processes, as somebody has them who followed the page."""

    hapta: str
    app: str


@pytest.fixture
def example(server_run: Run, tmp_path: Path) -> Iterator[Example]:
    shutil.copy(EXAMPLE / "app.py", tmp_path)
    (block,) = re.findall(r"```sh\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL)
    ports = {"3000": str(free_port()), "8799": str(free_port())}
    lines = [line for line in block.splitlines() if not line.startswith("pip install")]
    script = re.sub("|".join(ports), lambda found: ports[found[0]], "\n".join(lines))
    env = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "HOME": str(tmp_path),
        **{name: value for name, value in SETTINGS.items() if "ARGON2" in name},
    }
    log = tmp_path / "log.txt"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            ["bash", "-euc", script],
            cwd=tmp_path,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        ) as process,
    ):
        server_run.watch(process, signal.SIGTERM)
        try:
            assert process.stdout is not None
            # Everything before the app writes to the same place: what counts is the app's own line.
            said = next((line for line in process.stdout if line.startswith(b"Open ")), b"")
            assert said, log.read_text()
            yield Example(f"http://127.0.0.1:{ports['3000']}", said.split()[1].decode().rstrip("/"))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.stdout.close() if process.stdout else None


def test_people_sign_in_to_the_example_app_take_their_access_back_and_leave(example: Example) -> None:
    body = {"email": "ada@example.org", "password": PASSWORD}
    assert httpx.post(f"{example.hapta}/auth/register", json=body, timeout=120).status_code == 201
    with (
        Person(example.hapta, "ada@example.org", PASSWORD) as person,
        httpx.Client(base_url=example.app, timeout=120) as app,
    ):
        assert "Nobody is signed in" in app.get("/").text

        denied = person.authorize(app.get("/login").headers["location"], allow=False)
        assert "access_denied" in app.get(denied, follow_redirects=True).text

        before = app.cookies["example_app"]
        back = person.authorize(app.get("/login").headers["location"], untick=["posts:write"])
        page = app.get(back, follow_redirects=True).text
        assert "ada@example.org" in page
        assert "<dd>openid profile email offline_access posts:read</dd>" in page
        assert app.cookies["example_app"] != before
        assert "does not belong to a sign-in" in app.get(back, follow_redirects=True).text

        page = app.post("/refresh", follow_redirects=True).text
        assert "The tokens are new" in page, page

        account = person.open(f"{example.hapta}/identity/account")
        withdraw = next(form for form in Forms(account.text).found if form.action.endswith("/apps/withdraw"))
        assert person.submit(account, withdraw).status_code == 200
        page = app.get("/").text
        assert "does not count any more" in page
        assert "The access was taken back (invalid_grant)" in app.post("/refresh", follow_redirects=True).text

        leaving = person.open(app.post("/logout").headers["location"])
        (form,) = [form for form in Forms(leaving.text).found if ("decision", "logout") in form.buttons]
        gone = person.submit(leaving, form, button=("decision", "logout"))
        assert gone.headers["location"] == f"{example.app}/"
        assert "Nobody is signed in" in app.get("/").text
