"""Rules of the owner: a Python file whose hooks narrow what visitors may do and see (contract gateway, B.5).

`loader` reads the file into a `RuleSet`, `watch` does so again when it changes, `engine` is what the rest of the gateway asks, and
`judge` runs the hooks in threads of `pool`. Whatever goes wrong in there refuses the request; nothing that goes wrong lets it through.
"""
