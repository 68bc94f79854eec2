"""Other people: search, profiles, privacy and friends (contract relay, sections 9.2 and 9.3)."""
