"""One-time codes by mail and text message: verification, sign-in, second factor, change of a number."""
