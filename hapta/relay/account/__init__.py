"""What an account shows of itself, and the settings of its apps (contract relay, section 9.1)."""
