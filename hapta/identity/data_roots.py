"""Lasting keys of what lies beside people's data, kept in the same database: the auth side may be another server (`roots.py`)."""

from __future__ import annotations

from hapta.identity.roots import Side
from hapta.kit.keyring import LASTING_OF_DATA

DATA = Side("res_roots", LASTING_OF_DATA)
