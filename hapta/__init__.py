"""Hapta: a self-hosted security layer and backend for apps that must not have to trust their own server."""

__version__ = "0.1.0"
