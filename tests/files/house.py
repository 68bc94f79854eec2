"""What tests of files share: a server with files alone, the feature without HTTP, pictures, and bodies."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from hapta.blobs.blobs import Blobs
from hapta.blobs.connect import open_blobs
from hapta.db.connect import connect
from hapta.db.database import Database
from hapta.files.feature import Files, open_files
from hapta.files.intake import QuotaOf, UsedElsewhere
from hapta.files.models import Description, File
from hapta.files.verify import Verifier
from hapta.kit.clock import Clock, SystemClock
from hapta.kit.ids import RandomIds
from hapta.kit.keyring import Keyring
from hapta.settings import BlobsSettings, DatabaseSettings, FilesSettings
from hapta.testing.server import Account, TestHapta

ALICE = "018f2f6e-5d3c-7b1a-9c4d-000000000001"
BOB = "018f2f6e-5d3c-7b1a-9c4d-000000000002"
SECRET = "a secret for tests only, thirty-two bytes or more"
TUS = {"tus-resumable": "1.0.0"}
PIECE = {**TUS, "content-type": "application/offset+octet-stream"}
PDF = b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def picture(kind: str = "PNG", size: tuple[int, int] = (40, 30), colour: Any = (200, 30, 90), **options: Any) -> bytes:
    """A picture of one colour, with a darker left half, so that one sees which way is up."""
    image = Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour)
    image.paste((0, 0, 0), (0, 0, size[0] // 2, size[1]))
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


class Sent:
    """A file on its way to the service, as a form or a test brings it."""

    def __init__(self, content: bytes, described: Description, piece_bytes: int = 65_536) -> None:
        self.described = described
        self._content = content
        self._piece_bytes = piece_bytes

    async def chunks(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._content), self._piece_bytes):
            yield self._content[start : start + self._piece_bytes]


def text(content: str = "hello", name: str = "a.txt", **described: Any) -> Sent:
    return Sent(content.encode(), Description(name, "text/plain", **described))


async def chunks_of(content: bytes, piece_bytes: int = 65_536) -> AsyncIterator[bytes]:
    for start in range(0, len(content), piece_bytes):
        yield content[start : start + piece_bytes]


@dataclass
class House:
    """The feature over an open database and a store, nothing of it running by itself."""

    db: Database
    blobs: Blobs
    files: Files
    clock: Clock
    settings: FilesSettings

    async def content(self, file: File) -> bytes:
        opened = await self.files.service.read(file)
        async with aclosing(opened.chunks):
            return b"".join([chunk async for chunk in opened.chunks])

    async def keys(self) -> list[str]:
        """Everything that lies in the store."""
        return [
            stat.key for folder in ("files", "attachments", "incoming", "quarantine")
            for stat in await self.blobs.listed(folder)
        ]  # fmt: skip

    async def verified(self, **options: bool) -> list[str]:
        """What `hapta files verify` would tell."""
        report = await Verifier(self.db, self.blobs, self.clock, self.settings, **options).run()
        return report.problems


@asynccontextmanager
async def opened_house(
    url: str,
    folder: Path,
    clock: Clock | None = None,
    *,
    store: BlobsSettings | None = None,
    used_elsewhere: UsedElsewhere | None = None,
    quota_of: QuotaOf | None = None,
    **settings: Any,
) -> AsyncGenerator[House]:
    clock = clock or SystemClock()
    db = await connect(DatabaseSettings(url=url), folder, clock)
    blobs = await open_blobs(store or BlobsSettings(sync="none"), folder, clock, RandomIds())
    own = FilesSettings(**settings)
    try:
        async with open_files(
            db, blobs, clock, RandomIds(), own, Keyring(SECRET), used_elsewhere=used_elsewhere, quota_of=quota_of
        ) as files:
            yield House(db, blobs, files, clock, own)
    finally:
        await blobs.close()
        await db.close()


def served(url: str, folder: Path, environ: Mapping[str, str] | None = None, **options: Any) -> TestHapta:
    """A whole server over this database."""
    given = {"DATABASE_URL": url, "HAPTA_RELAY_ENABLED": "false", "HAPTA_BLOBS_SYNC": "none", **(environ or {})}
    return TestHapta(folder, given, **options)


async def upload(
    account: Account,
    content: bytes = b"hello",
    media_type: str = "text/plain",
    name: str = "a.txt",
    path: str = "/v1/uploads",
    **fields: str,
) -> httpx.Response:
    return await account.post(path, files={"file": (name, content, media_type)}, data=fields)


async def uploaded(account: Account, *args: Any, **fields: Any) -> dict[str, Any]:
    """The file that came of an upload."""
    answer = await upload(account, *args, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["file"]


async def create_tus(account: Account, length: int | None, metadata: str = "", **headers: str) -> httpx.Response:
    about = {"upload-defer-length": "1"} if length is None else {"upload-length": str(length)}
    return await account.post("/v1/uploads/tus", headers={**TUS, **about, "upload-metadata": metadata, **headers})
