"""Voice: tokens of ElevenLabs, and what an account may use of it (contract relay, section 10)."""
