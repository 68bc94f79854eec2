"""The cases, in the order in which they run. Each is a function of a `Bench` that yields lines of the table."""
