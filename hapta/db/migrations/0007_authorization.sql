-- Pushed requests, device codes and consents. Secrets are kept as hashes: SHA-256 where they have 128 bits or more, else HMAC
-- with a key that is not in the database. Lists of scopes and resources are separated by blanks, which neither may hold.

CREATE TABLE auth_consents (
    user_id text NOT NULL,
    client_id text NOT NULL,
    scopes text NOT NULL,
    refused_scopes text NOT NULL,            -- asked for, and unticked: not asked for again
    resources text NOT NULL,
    metadata_version bigint NOT NULL,        -- of the client, as the person saw it
    address_hash bytea,                      -- where from, as an HMAC
    allowed_at bigint NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (user_id, client_id)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX auth_consents_by_client ON auth_consents (client_id);

CREATE TABLE auth_par (
    client_id text NOT NULL,
    reference_hash bytea NOT NULL,
    request bytea NOT NULL,                  -- the validated request, sealed
    expires_at bigint NOT NULL,              -- until when it opens a flow
    keep_until bigint NOT NULL,              -- until when a flow that it opened may end in a code
    consumed_at bigint,
    PRIMARY KEY (client_id, reference_hash)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX auth_par_by_end ON auth_par (keep_until);

-- Code challenges that led to a code: one that comes twice was not made afresh, as RFC 7636 wants it.
CREATE TABLE auth_challenges (
    client_id text NOT NULL,
    challenge_hash bytea NOT NULL,
    expires_at bigint NOT NULL,
    PRIMARY KEY (client_id, challenge_hash)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX auth_challenges_by_end ON auth_challenges (expires_at);

CREATE TABLE auth_device (
    client_id text NOT NULL,
    code_hash bytea NOT NULL,
    user_code_hash bytea NOT NULL UNIQUE,
    scopes text NOT NULL,
    resources text NOT NULL,
    address text,                            -- where the device asked from, for the person who confirms
    user_agent text,
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    interval_ms bigint NOT NULL,
    polled_at bigint,
    decision text,                           -- 'allowed' or 'denied'; NULL: not yet
    user_id text,                            -- from here on: what the person decided, and who they are
    session_id text,
    granted_scopes text,
    authenticated_at bigint,
    amr text,
    person_version bigint,
    consumed_at bigint,
    PRIMARY KEY (client_id, code_hash)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX auth_device_by_end ON auth_device (expires_at);

-- Wrong user codes, by session and by address.
CREATE TABLE auth_device_misses (
    who bytea NOT NULL PRIMARY KEY,
    misses bigint NOT NULL,
    expires_at bigint NOT NULL
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX auth_device_misses_by_end ON auth_device_misses (expires_at);

-- Apps that must be told when a session ends (OpenID Connect Back-Channel Logout).
CREATE TABLE auth_logout_watchers (
    user_id text NOT NULL,
    session_id text NOT NULL,
    client_id text NOT NULL,
    expires_at bigint NOT NULL,
    PRIMARY KEY (user_id, session_id, client_id)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX auth_logout_watchers_by_end ON auth_logout_watchers (expires_at);

CREATE TABLE auth_logout_deliveries (
    client_id text NOT NULL,
    id text NOT NULL,
    user_id text NOT NULL,
    session_id text NOT NULL,
    attempts bigint NOT NULL,
    due_at bigint NOT NULL,
    PRIMARY KEY (client_id, id)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX auth_logout_deliveries_by_time ON auth_logout_deliveries (due_at);
