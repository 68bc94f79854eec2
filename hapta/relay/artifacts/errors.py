"""What the artifacts of an account refuse."""

from __future__ import annotations

from hapta.kit.errors import Forbidden
from hapta.relay.errors import IdTaken


class ArtifactIdTaken(IdTaken):
    """Ids of artifacts are unique among all accounts, since a key to one names it by nothing else."""

    message = "Artifact with this ID already exists for another account"


class ArtifactLimit(Forbidden):
    """The account has as many artifacts as it may have."""

    code = "artifact_limit"
    message = "Too many artifacts; delete some that are no longer needed"
