"""The end of an account: what every noun of the relay keeps of it goes, also what comes a moment too late."""
