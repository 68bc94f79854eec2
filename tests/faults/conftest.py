"""What all tests of this folder share."""

from __future__ import annotations

import pytest


@pytest.fixture
def database_url(migrated_url: str) -> str:
    """Nothing here is about migrations, so each test gets a copy of a migrated database."""
    return migrated_url
