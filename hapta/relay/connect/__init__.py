"""Accounts at other services: tokens of vendors, sealed, and a GitHub account."""
