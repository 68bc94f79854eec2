"""The pages of an account, rendered on the server and usable without JavaScript: sign-in, sign-up, recovery, account."""
