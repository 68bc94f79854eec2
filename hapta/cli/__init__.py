"""The command line: a file for each command, loaded only when it is called; `main.py` knows their names."""
