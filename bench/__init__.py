"""Benchmarks: each case stands against a named peer or the raw limit of the same machine, taken in one run.

`python -m bench` runs them all and prints one table. Server and load sit on separate cores; ours and the peer take turns
within the same minutes, five rounds each, and the median counts. Ratios travel between machines, absolute figures do not.
"""
