"""The ground every other part stands on: standard library and crypto only, no database, no HTTP."""
