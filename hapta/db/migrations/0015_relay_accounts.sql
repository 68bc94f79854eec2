-- The relay, on accounts as a whole: those that were deleted, and those whose people are there.

CREATE TABLE res_relay_departed (            -- deleted accounts, until whatever was under way at that moment has come to its end
    account_id text NOT NULL PRIMARY KEY,
    left_at bigint NOT NULL
) /*sqlite: WITHOUT ROWID*/;

CREATE TABLE res_relay_online (              -- accounts with friends whose apps are connected, by worker; as res_relay_presence
    account_id text NOT NULL,
    worker_id text NOT NULL,
    seen_at bigint NOT NULL,
    PRIMARY KEY (account_id, worker_id)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX res_relay_online_by_worker ON res_relay_online (worker_id, seen_at);
CREATE INDEX res_relay_online_by_age ON res_relay_online (seen_at);
