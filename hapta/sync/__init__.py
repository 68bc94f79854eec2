"""The encrypted sync log: push, pull, realtime, vault keys, snapshots. Enter it by `feature`, `service` and `models`."""
