"""The socket protocol: one WebSocket for records, subscriptions, sign-ins and files (contract gateway, B.3, B.8 to B.10)."""
