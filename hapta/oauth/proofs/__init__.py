"""DPoP proofs that were seen: what keeps one from counting twice."""
