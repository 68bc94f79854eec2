"""Who is online, as friends are told."""
