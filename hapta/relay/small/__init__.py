"""Small answers that apps ask for: versions, health, logs and numbers (contract relay, sections 10 and 16)."""
