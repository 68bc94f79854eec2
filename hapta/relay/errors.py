"""Errors that several nouns of the relay raise; the texts are the ones that clients were written against (contract relay)."""

from __future__ import annotations

from hapta.kit.errors import Conflict, Invalid, NotFound


class SessionNotFound(NotFound):
    code = "session_not_found"
    message = "Session not found"


class MachineNotFound(NotFound):
    code = "machine_not_found"
    message = "Machine not found"


class ArtifactNotFound(NotFound):
    code = "artifact_not_found"
    message = "Artifact not found"


class SessionOrMachineNotFound(NotFound):
    code = "session_or_machine_not_found"
    message = "Session or machine not found"


class InvalidCursor(Invalid):
    code = "invalid_cursor"
    message = "Invalid cursor format"


class IdTaken(Conflict):
    """An id that the client chose belongs to another account, or to another thing of this one."""

    code = "id_taken"
