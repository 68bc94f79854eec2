-- Accounts and sessions. `res_*` tables belong to the resource side, `auth_*` tables to the auth side: no join, key or view
-- spans the two. Every key leads with its account. Types are shared by both engines: text, bigint (instants in Unix
-- milliseconds), bytea.

CREATE TABLE res_accounts (
    id text NOT NULL PRIMARY KEY,
    email text NOT NULL,                     -- as given, without blanks around it
    email_key text NOT NULL UNIQUE,          -- lower case: what makes two addresses the same
    password_hash text NOT NULL,             -- "<scheme>:<hash>", so that schemes can be replaced
    auth_salt text,                          -- the client's own salt for the login split; the server only hands it back
    token_version bigint NOT NULL,           -- raised to end every token at once
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL
);

CREATE TABLE auth_sessions (
    user_id text NOT NULL,
    id text NOT NULL,                        -- stays the same while its keys roll
    generation bigint NOT NULL,              -- of the keys; tokens carry the one they were made with
    previous_generation bigint,              -- still honoured for a moment after `rolled_at`; NULL: not
    rolled_at bigint NOT NULL,               -- when the present generation began
    key_hash bytea,                          -- of the session's cookie or refresh key, for sessions that have one
    previous_key_hash bytea,
    token_version bigint NOT NULL,           -- of the account, when the newest token was made
    device_id text,
    device_label text,
    user_agent text,
    provider text NOT NULL,                  -- who vouched for the user: 'password', later also others
    amr text NOT NULL,                       -- how (RFC 8176), separated by blanks
    authenticated_at bigint NOT NULL,
    created_at bigint NOT NULL,
    last_seen_at bigint NOT NULL,
    token_expires_at bigint NOT NULL,        -- end of the newest token
    absolute_expires_at bigint NOT NULL,
    expires_at bigint NOT NULL,              -- the first of: idle too long, newest token over, absolute end
    revoked_at bigint,
    revoked_reason text,
    PRIMARY KEY (user_id, id)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX auth_sessions_by_expiry ON auth_sessions (expires_at);

-- What every worker reads each second to forget tokens it knows. Rows live for an hour.
CREATE TABLE auth_revocations (
    user_id text NOT NULL,
    id text NOT NULL,
    session_id text NOT NULL,
    before_generation bigint,                -- only tokens of older generations end; NULL: the session has ended
    at bigint NOT NULL,
    PRIMARY KEY (user_id, id)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX auth_revocations_by_time ON auth_revocations (at);
