"""The relay: encrypted agent sessions, and the updates and calls between an account's apps, terminals and machines."""
