"""The audit log: a signed chain of what happened, that shows tampering (contract identity, section 27)."""
