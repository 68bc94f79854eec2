"""The authorization endpoint: from a request to a code, by way of login and consent."""
