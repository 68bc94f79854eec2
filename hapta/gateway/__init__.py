"""The gateway in front of PocketBase: rolling sessions, limits, validation, rules, a coherent cache, realtime fan-in, files.

User traffic always runs with the user's own PocketBase token, or with none; the superuser is used for the schema, the stream of
changes and what an operator asks for explicitly (contract gateway, B.1).
"""
