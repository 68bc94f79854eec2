"""The outbox: messages and deferred work, written with what causes them and done afterwards."""
