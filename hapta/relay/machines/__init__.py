"""Machines: the computers on which an account's agents run, each with a daemon that keeps a socket open."""
