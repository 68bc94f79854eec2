"""The HTTP edge: the typed endpoint table, the one chain every request passes, errors, limits, documentation."""
