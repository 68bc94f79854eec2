"""What goes wrong on the page of the device grant."""

from __future__ import annotations

from hapta.kit.errors import NotFound, TooMany


class UnknownUserCode(NotFound):
    """No device waits under this code (any more)."""

    message = "This code is not right, or it has expired. Check it on your device."


class TooManyCodes(TooMany):
    """Too many wrong codes from this session or address (contract identity, section 10)."""

    message = "There were too many wrong codes"
