"""New passwords are held against a corpus of breached ones, which learns next to nothing and may be away."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from hapta.identity.breaches import breach_check
from hapta.identity.models import NewPerson
from hapta.kit.errors import ValidationFailed
from tests.identity.conftest import CHEAP, NewWorker

BREACHED, SOUND = "a pass phrase that leaked", "a pass phrase that nobody knows"
ALICE = "alice@example.org"


class Corpus:
    """A little server of ranges that knows one password, and notes what it is asked."""

    def __init__(self, *, status: int = 200, padding_only: bool = False) -> None:
        self.asked: list[str] = []
        self.status = status
        self.count = 0 if padding_only else 17
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head)
        digest = hashlib.sha1(BREACHED.encode(), usedforsecurity=False).hexdigest().upper()
        body = f"{'0' * 35}:3\r\n{digest[5:]}:{self.count}\r\n".encode()
        writer.write(f"HTTP/1.1 {self.status} X\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def serving(corpus: Corpus) -> AsyncIterator[Corpus]:
    server = await asyncio.start_server(corpus.answer, "127.0.0.1", 0)
    corpus.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/range"
    async with server:
        yield corpus


def checking(url: str) -> Callable[[str], Awaitable[bool]]:
    check = breach_check(replace(CHEAP, breach_url=url))
    assert check is not None
    return check


async def test_a_password_of_a_breach_is_refused_wherever_one_is_chosen(new_worker: NewWorker) -> None:
    async with serving(Corpus()) as corpus:
        worker = await new_worker(breach_url=corpus.url)
        with pytest.raises(ValidationFailed) as refused:
            await worker.people.create(NewPerson(email=ALICE, password=BREACHED))
        assert [issue.path for issue in refused.value.issues] == [("password",)]
        person = await worker.people.create(NewPerson(email=ALICE, password=SOUND))
        with pytest.raises(ValidationFailed) as refused:
            await worker.people.set_password(person.user_id, BREACHED, if_version=person.version)
        assert [issue.path for issue in refused.value.issues] == [("newPassword",)]
        assert await worker.people.check_password(ALICE, SOUND) is not None


async def test_the_corpus_is_told_five_characters_and_asked_for_padding() -> None:
    async with serving(Corpus()) as corpus:
        assert await checking(corpus.url)(BREACHED)
    digest = hashlib.sha1(BREACHED.encode(), usedforsecurity=False).hexdigest().upper()
    assert corpus.asked[0].startswith(f"GET /range/{digest[:5]} HTTP/1.1\r\n")
    assert "add-padding: true" in corpus.asked[0].lower()
    assert digest[5:] not in corpus.asked[0]


async def test_a_line_of_padding_is_no_breach() -> None:
    async with serving(Corpus(padding_only=True)) as corpus:
        assert not await checking(corpus.url)(BREACHED)


async def test_a_corpus_that_is_away_or_fails_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Corpus(status=503)) as corpus:
        assert not await checking(corpus.url)(BREACHED)
    assert not await checking(corpus.url)(BREACHED)  # nobody listens any more
    assert len(caplog.records) == 2
    assert BREACHED not in caplog.text


def test_without_a_corpus_nobody_is_asked() -> None:
    assert breach_check(CHEAP) is None
