"""Pictures: their size and look, and those that were made to break whoever opens them."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from base64 import b64decode
from collections.abc import Iterator

import pytest
from PIL import Image

from hapta.files.errors import InvalidType
from hapta.files.images import Images
from hapta.files.models import Picture
from hapta.files.thumbhash import encoded
from hapta.settings import FilesSettings
from tests.files.house import picture

pytestmark = pytest.mark.anyio
KINDS = {"JPEG": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "WEBP": "image/webp"}


@pytest.fixture
def images() -> Iterator[Images]:
    opened = Images(FilesSettings(image_pixels=1_000_000, max_image_pixels=4_000_000))
    yield opened
    opened.close()


async def look(images: Images, content: bytes, media_type: str = "image/png") -> Picture:
    async def read() -> bytes:
        return content

    return await images.look_at(media_type, read)


def average(thumbhash: str) -> tuple[float, float, float]:
    """The average colour that a ThumbHash holds, as its description decodes it."""
    raw = b64decode(thumbhash)
    head = int.from_bytes(raw[:3], "little")
    light, yellow, red = (head & 63) / 63, (head >> 6 & 63) / 31.5 - 1, (head >> 12 & 63) / 31.5 - 1
    blue = light - 2 / 3 * yellow
    return (3 * light - blue + red) / 2, (3 * light - blue - red) / 2, blue


def test_a_green_pixel_half_seen_through_has_the_hash_that_clients_know() -> None:
    """The one of the contract (relay-native, section 2.22), made by the original's library."""
    assert encoded(1, 1, bytes((0, 255, 0, 127))) == "1QuoBX93CPeIh3B/+AiIcH/4CPeIh3B/+A=="


@pytest.mark.parametrize("size", [(0, 1), (101, 1), (2, 2)])
def test_a_hash_is_made_of_a_small_picture_only(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="ThumbHash"):
        encoded(*size, b"1234")


@pytest.mark.parametrize("kind", KINDS)
async def test_every_raster_type_has_its_size_and_its_look(images: Images, kind: str) -> None:
    found = await look(images, picture(kind, (300, 200), (250, 250, 250)), KINDS[kind])
    assert (found.width, found.height) == (300, 200)
    assert found.thumbhash is not None
    assert average(found.thumbhash) == pytest.approx((0.5, 0.5, 0.5), abs=0.06)  # half of it is black


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
async def test_every_kind_of_pixels_is_read(images: Images, mode: str) -> None:
    out = io.BytesIO()
    kind = "JPEG" if mode == "CMYK" else "PNG"
    Image.new(mode, (50, 20)).save(out, kind)
    found = await look(images, out.getvalue(), KINDS[kind])
    assert found[:2] == (50, 20)
    assert found.thumbhash


@pytest.mark.parametrize("orientation", range(1, 9))
async def test_a_picture_that_lies_on_its_side_is_told_upright(images: Images, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = await look(images, picture("JPEG", (400, 100), exif=exif.tobytes()), "image/jpeg")
    assert found[:2] == ((100, 400) if orientation >= 5 else (400, 100))
    assert found.thumbhash is not None
    assert bool(b64decode(found.thumbhash)[4] & 0x80) is (orientation < 5)  # the bit that says: broader than high


async def test_more_pixels_than_are_decoded_have_a_size_and_no_look(images: Images) -> None:
    assert await look(images, picture("PNG", (1500, 1000))) == Picture(1500, 1000, None)
    with pytest.raises(InvalidType):
        await images.avatar("image/png", picture("PNG", (1500, 1000)))


def png(width: int, height: int, pixels: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def bombs() -> dict[str, tuple[bytes, str]]:
    zeros = zlib.compress(bytes(20_000_000), 9)
    gif = b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0" + b"\xff" * 4
    text = b"\x89PNG\r\n\x1a\n" + png(10, 10, zlib.compress(bytes(410)))[8:33]
    data = b"c\0\0" + zlib.compress(bytes(80_000_000), 9)
    text += struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    return {
        "pixels": (png(50_000, 50_000, zeros), "image/png"),
        "one line": (png(2_147_483_647, 1, zeros), "image/png"),
        "screen": (gif + b"\0\2\2D\1\0;", "image/gif"),
        "text": (text + png(10, 10, zlib.compress(bytes(410)))[33:], "image/png"),
        "missing pixels": (png(900, 900, zlib.compress(b"")), "image/png"),
        "webp": (b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff", "image/webp"),
        "jpeg": (picture("JPEG")[:200], "image/jpeg"),
        "nothing": (b"", "image/png"),
    }


async def test_bombs_and_wrecks_are_refused_without_being_unpacked(images: Images) -> None:
    for name, (content, media_type) in bombs().items():
        tracemalloc.start()
        with pytest.raises(InvalidType):
            await look(images, content, media_type)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16 * 1024 * 1024, name
        with pytest.raises(InvalidType):
            await images.avatar(media_type, content)


async def test_only_the_decoder_of_the_type_is_asked(images: Images) -> None:
    """A file with two faces is read as the one that its first bytes show, or not at all."""
    with pytest.raises(InvalidType):
        await look(images, picture("PNG"), "image/gif")
    out = io.BytesIO()
    Image.new("RGB", (5, 5)).save(out, "BMP")
    with pytest.raises(InvalidType):
        await look(images, out.getvalue(), "image/png")
