-- Sessions of the gateway in front of PocketBase, and which account of ours belongs to which of its records. Both belong to a
-- record of PocketBase, so their keys lead with it.

CREATE TABLE res_gateway_sessions (
    collection_id text NOT NULL,
    record_id text NOT NULL,
    id text NOT NULL,
    user_id text NOT NULL,                   -- the account that belongs to the record; empty: none
    generation bigint NOT NULL,              -- of the token that counts: its successor is one more
    token_id text NOT NULL,                  -- the `jti` of that token, from which it can be made again letter by letter
    previous_token_id text,                  -- of the token before it
    issued_at bigint NOT NULL,
    token_expires_at bigint NOT NULL,
    acknowledged_at bigint,                  -- when the token was first used; NULL: the one before it counts as well
    retired text NOT NULL,                   -- still older generations and until when they count: "3:1790000000000 4:..."
    upstream_token bytea NOT NULL,           -- PocketBase's own token, sealed for this session
    upstream_at bigint NOT NULL,             -- when PocketBase gave it out
    upstream_expires_at bigint NOT NULL,
    checked_at bigint NOT NULL,              -- when PocketBase last said that it counts
    user_agent text NOT NULL,
    address text NOT NULL,                   -- the network of the login: 24 bits of an IPv4 address, 48 of an IPv6 address
    created_at bigint NOT NULL,
    last_seen_at bigint NOT NULL,
    expires_at bigint NOT NULL,              -- the first of: idle for too long, its last token ended, its whole life is over
    absolute_expires_at bigint NOT NULL,
    revoked_at bigint,
    revoked_reason text,
    PRIMARY KEY (collection_id, record_id, id)
) /*sqlite: WITHOUT ROWID*/;

CREATE UNIQUE INDEX res_gateway_sessions_by_id ON res_gateway_sessions (id);
CREATE INDEX res_gateway_sessions_by_expiry ON res_gateway_sessions (expires_at);
CREATE INDEX res_gateway_sessions_ended ON res_gateway_sessions (revoked_at) WHERE revoked_at IS NOT NULL;

CREATE TABLE res_gateway_accounts (
    collection_id text NOT NULL,
    record_id text NOT NULL,
    born text NOT NULL,                      -- when PocketBase says the record was made: a later record of the same id is not the same
    user_id text NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (collection_id, record_id)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX res_gateway_accounts_by_user ON res_gateway_accounts (user_id);
