"""The keys that sign for third parties: made, published, used, retired, revoked."""
