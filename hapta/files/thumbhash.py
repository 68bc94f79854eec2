"""ThumbHash: some 25 bytes from which clients draw a blurred picture before the real one has come.

The form is that of Evan Wallace's published description (evanw.github.io/thumbhash): averages and the lowest frequencies of a
cosine transform of luminance, two colour differences and, where there is any, transparency; packed into nibbles.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Sequence
from typing import NamedTuple

SIDE = 32
"""Pictures are looked at in this size: the highest of the seven frequencies needs fewer pixels, and the format allows up to 100."""


class _Waves(NamedTuple):
    """A channel: its average, its waves from 0 to 1 round 0.5, and the height of the largest of them."""

    average: float
    waves: list[float]
    scale: float


def encoded(width: int, height: int, rgba: bytes) -> str:
    """The ThumbHash of a picture in standard base64.

    Args:
        rgba: four bytes a pixel, row by row, not premultiplied.

    Raises:
        ValueError: the picture is empty, larger than 100 pixels, or of another size than its bytes.
    """
    if not (0 < width <= 100 and 0 < height <= 100 and len(rgba) == 4 * width * height):
        raise ValueError("a ThumbHash is made of 1 to 100 pixels a side")
    light, yellow, red, opaque = _channels(rgba)
    has_alpha = sum(opaque) < width * height
    most, longer = (5 if has_alpha else 7), max(width, height)
    across, down = max(1, _whole(most * width / longer)), max(1, _whole(most * height / longer))
    lights = _waves_of(light, width, height, max(3, across), max(3, down))
    yellows, reds = (_waves_of(channel, width, height, 3, 3) for channel in (yellow, red))
    landscape = width > height
    head = (
        _whole(63 * lights.average)
        | _whole(31.5 + 31.5 * yellows.average) << 6
        | _whole(31.5 + 31.5 * reds.average) << 12
        | _whole(31 * lights.scale) << 18
        | has_alpha << 23
    )
    more = (
        (down if landscape else across)
        | _whole(63 * yellows.scale) << 3
        | _whole(63 * reds.scale) << 9
        | landscape << 15
    )
    packed = bytearray(head.to_bytes(3, "little") + more.to_bytes(2, "little"))
    waves = [*lights.waves, *yellows.waves, *reds.waves]
    if has_alpha:
        alphas = _waves_of(opaque, width, height, 5, 5)
        packed.append(_whole(15 * alphas.average) | _whole(15 * alphas.scale) << 4)
        waves += alphas.waves
    nibbles = [_whole(15 * wave) for wave in waves]
    nibbles += [0] * (len(nibbles) % 2)
    packed += bytes([low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True)])
    return b64encode(packed).decode("ascii")


def _channels(rgba: bytes) -> tuple[list[float], list[float], list[float], list[float]]:
    """Luminance, yellow against blue, red against green, opacity; what shows through has the average colour."""
    opaque = [value / 255 for value in rgba[3::4]]
    total = sum(opaque)
    planes: list[list[float]] = []
    for plane in (rgba[0::4], rgba[1::4], rgba[2::4]):
        seen = [alpha * value / 255 for alpha, value in zip(opaque, plane, strict=True)]
        average = sum(seen) / total if total else 0.0
        planes.append([average * (1 - alpha) + value for alpha, value in zip(opaque, seen, strict=True)])
    reds, greens, blues = planes
    light = [(red + green + blue) / 3 for red, green, blue in zip(reds, greens, blues, strict=True)]
    yellow = [(red + green) / 2 - blue for red, green, blue in zip(reds, greens, blues, strict=True)]
    red = [red - green for red, green in zip(reds, greens, strict=True)]
    return light, yellow, red, opaque


def _waves_of(channel: Sequence[float], width: int, height: int, across: int, down: int) -> _Waves:
    """The lowest frequencies of a channel: those in the triangle below the diagonal of `across` and `down`."""
    rows = [channel[start : start + width] for start in range(0, width * height, width)]
    # The transform is separable: first along each row, then down the columns of what came out.
    along = [
        [sum(map(float.__mul__, row, cosines)) for row in rows]
        for cosines in ([math.cos(math.pi / width * n * (x + 0.5)) for x in range(width)] for n in range(across))
    ]
    waves: list[float] = []
    for m in range(down):
        cosines = [math.cos(math.pi / height * m * (y + 0.5)) for y in range(height)]
        for n in range(across):
            if n * down >= across * (down - m):
                break
            waves.append(sum(map(float.__mul__, along[n], cosines)) / (width * height))
    average, *rest = waves
    scale = max(map(abs, rest), default=0.0)
    return _Waves(average, [0.5 + 0.5 / scale * wave for wave in rest] if scale else rest, scale)


def _whole(value: float) -> int:
    """Rounds halves up, as the description does."""
    return math.floor(value + 0.5)
