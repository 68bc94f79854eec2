"""Who somebody is elsewhere: an account at another provider, or a key (contract identity, section 24)."""
