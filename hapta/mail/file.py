"""Messages as files, for development and tests: mails as `.eml`, text messages as `.txt`, newest last by name.

Nothing leaves the machine. Files are readable by their owner only, since they hold codes and links.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from hapta.kit.clock import Clock
from hapta.mail.sender import Outgoing, TryLater


class FileSender:
    """Writes every message into one folder. Implements `Sender`.

    Args:
        folder: made when it is missing, for its owner only.
        from_address: sender of mails, as in `From:`.
    """

    def __init__(self, folder: Path, clock: Clock, from_address: str) -> None:
        self._folder = folder
        self._clock = clock
        self._from = from_address

    async def send(self, message: Outgoing) -> None:
        """See `Sender.send`."""
        if message.channel == "email":
            from hapta.mail.smtp import as_mail  # only who sends mail needs what that brings

            content, suffix = bytes(as_mail(message, self._from, self._clock.now())), "eml"
        else:
            content, suffix = f"To: {message.to}\n\n{message.text}\n".encode(), "txt"
        name = f"{self._clock.now_ms():015d}-{message.template}-{message.idempotency_key}.{suffix}"
        try:
            await asyncio.to_thread(_write, self._folder, name, content)
        except OSError as error:
            raise TryLater(f"the folder of messages: {error.strerror}") from error

    async def close(self) -> None:
        """Nothing is open."""


def _write(folder: Path, name: str, content: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Under another name first: whoever watches the folder sees whole messages only. Sent again, it replaces itself.
    draft = folder / f".{name}.part"  # a glob for `*.eml` may well match names that begin with a dot
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    draft.rename(folder / name)
