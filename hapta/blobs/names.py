"""Names of files: only the last part of what a client says, and nothing in it that a path, a header or a reader stumbles over."""

from __future__ import annotations

import re
import unicodedata

MAX_NAME_BYTES = 200
_RESERVED = re.compile(r'[<>:"|?*]')


def sanitised(name: str) -> str:
    """The name under which a file is kept or passed on. It need not be unique.

    Folders, control and format characters (such as those that turn the direction of text), quotation marks and what file systems
    reserve go; dots and blanks at both ends as well. A long name is cut before its extension.
    """
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    plain = "".join(["_" if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} else char for char in last])
    clean = _RESERVED.sub("_", plain).strip(" .")
    if not clean:
        return "file"
    stem, dot, extension = clean.rpartition(".")
    if not dot or len(extension) > 16:
        stem, dot, extension = clean, "", ""
    room = MAX_NAME_BYTES - len((dot + extension).encode())
    return stem.encode()[:room].decode(errors="ignore") + dot + extension
