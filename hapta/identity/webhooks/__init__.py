"""Delivery of auth events to registered receivers, signed by Standard Webhooks (contract identity, section 26)."""
