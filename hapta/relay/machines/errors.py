"""What the machines of an account refuse."""

from __future__ import annotations

from hapta.kit.errors import Forbidden


class MachineLimit(Forbidden):
    """The account has as many machines as it may have. 403 and not 5xx: a daemon then goes on without its machine."""

    code = "machine_limit"
    message = "Too many machines; remove one that is no longer used"
