"""What `images.py` does to a picture, by Pillow, on the thread that calls: opened by one decoder, measured, shrunk, made anew.

Whatever the decoders raise is told by the caller's boundary as one error.
"""

from __future__ import annotations

import io
from typing import NamedTuple

from PIL import Image, ImageOps

from hapta.files.errors import InvalidType
from hapta.files.models import Picture
from hapta.files.thumbhash import SIDE, encoded
from hapta.settings import FilesSettings

JPEG_QUALITY = 88
_PLAIN = frozenset({"L", "RGB", "RGBA"})


class Avatar(NamedTuple):
    """A picture that was made anew: square, upright, and without whatever its maker had put beside the pixels."""

    content: bytes
    media_type: str
    picture: Picture


def _opened(data: bytes, decoder: str, max_pixels: int) -> Image.Image:
    # Ours is the stricter check, and comes before a pixel is decoded; Pillow's own only warns.
    Image.MAX_IMAGE_PIXELS = None
    image = Image.open(io.BytesIO(data), formats=[decoder])
    if image.width * image.height > max_pixels:
        raise InvalidType("The image has too many pixels")
    return image


def look_at(data: bytes, decoder: str, settings: FilesSettings) -> Picture:
    """See `Images.look_at`; `decoder` is Pillow's name of the only format that is tried."""
    image = _opened(data, decoder, settings.max_image_pixels)
    width, height = image.size
    if width * height > settings.image_pixels:
        return Picture(width, height, None)
    image.draft("RGB", (2 * SIDE, 2 * SIDE))  # of a JPEG no more is decoded than is needed
    small = _upright(image, SIDE)
    if _is_turned(image):
        width, height = height, width
    return Picture(width, height, encoded(small.width, small.height, small.tobytes()))


def avatar(data: bytes, decoder: str, settings: FilesSettings) -> Avatar:
    """See `Images.avatar`; `decoder` is Pillow's name of the only format that is tried."""
    image = _opened(data, decoder, settings.image_pixels)
    side = min(settings.avatar_pixels, *image.size)
    image.draft("RGB", (2 * side, 2 * side))
    image.load()
    whole = ImageOps.exif_transpose(image).convert("RGBA")
    square = ImageOps.fit(whole, (side, side))
    opaque = square.getchannel("A").getextrema() == (255, 255)
    bare = Image.frombytes("RGBA", square.size, square.tobytes())  # pixels alone: what else came along stays behind
    out = io.BytesIO()
    if opaque:
        bare.convert("RGB").save(out, "JPEG", quality=JPEG_QUALITY, optimize=True)
    else:
        bare.save(out, "PNG", optimize=True)
    small = _shrunk(bare, SIDE)
    picture = Picture(side, side, encoded(small.width, small.height, small.tobytes()))
    return Avatar(out.getvalue(), "image/jpeg" if opaque else "image/png", picture)


def _upright(image: Image.Image, side: int) -> Image.Image:
    image.load()
    plain = image if image.mode in _PLAIN else image.convert("RGBA")
    small = _shrunk(plain, side)
    small.info = image.info
    return ImageOps.exif_transpose(_with_exif(small, image)).convert("RGBA")


def _with_exif(small: Image.Image, image: Image.Image) -> Image.Image:
    orientation = image.getexif().get(_ORIENTATION)
    if orientation is not None:
        small.getexif()[_ORIENTATION] = orientation
    return small


def _is_turned(image: Image.Image) -> bool:
    return image.getexif().get(_ORIENTATION) in _TURNED


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    factor = max(image.size) / side
    if factor <= 1:
        return image.copy()
    size = (max(1, round(image.width / factor)), max(1, round(image.height / factor)))
    return ImageOps.fit(image, size, Image.Resampling.BOX)


_ORIENTATION = 0x0112
_TURNED = frozenset({5, 6, 7, 8})
"""Orientations that lay a picture on its side (Exif 2.3, section 4.6.4)."""
