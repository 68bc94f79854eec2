"""Authorization codes: issued after consent, redeemed once."""
