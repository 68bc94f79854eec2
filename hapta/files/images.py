"""Raster images: how large they are, what they look like from afar (ThumbHash), and avatars made anew from them.

Whoever made a picture chose every byte that is decoded here. So its size is read before its pixels are, only the decoder of the type
that its first bytes show is asked, and all of it happens in a few threads of our own, one picture's bytes in memory for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from hapta.files.errors import InvalidType
from hapta.files.models import Picture
from hapta.settings import FilesSettings

if TYPE_CHECKING:
    from hapta.files.pixels import Avatar

RASTER = {"image/jpeg": "JPEG", "image/png": "PNG", "image/gif": "GIF", "image/webp": "WEBP"}
"""Types that are decoded, and the one decoder that is asked for each."""
T = TypeVar("T")


class Images:
    """Decodes in threads of its own.

    Args:
        settings: limits of pixels and bytes, and the number of threads.
    """

    def __init__(self, settings: FilesSettings) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.image_threads, thread_name_prefix="hapta-images")
        self._turns = asyncio.Semaphore(settings.image_threads)

    async def look_at(self, media_type: str, read: Callable[[], Awaitable[bytes]]) -> Picture:
        """Size and look of a picture.

        Args:
            read: gives its bytes; called when there is a thread for it.

        Raises:
            InvalidType: it is not a picture of this type, is broken, or claims to be unreasonably large.
        """
        async with self._turns:
            data = await read()
            return await self._run(lambda: _look_at(data, media_type, self._settings))

    async def avatar(self, media_type: str, data: bytes) -> Avatar:
        """A square of the middle of a picture.

        Raises:
            InvalidType: as `look_at`, and for pictures that are too large to be decoded.
        """
        async with self._turns:
            return await self._run(lambda: _avatar(data, media_type, self._settings))

    def close(self) -> None:
        """Waits for what is being decoded."""
        self._pool.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: _guarded(work))


def _guarded(work: Callable[[], T]) -> T:
    try:
        return work()
    except InvalidType:
        raise
    except (
        Exception
    ) as error:  # the boundary: decoders answer bytes that were made to break them with errors of all kinds
        raise InvalidType("The image cannot be read") from error


# The decoders are loaded with the first picture, by the thread that decodes it: a server at rest does without.


def _look_at(data: bytes, media_type: str, settings: FilesSettings) -> Picture:
    from hapta.files import pixels

    return pixels.look_at(data, RASTER[media_type], settings)


def _avatar(data: bytes, media_type: str, settings: FilesSettings) -> Avatar:
    from hapta.files import pixels

    return pixels.avatar(data, RASTER[media_type], settings)
