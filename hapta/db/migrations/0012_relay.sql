-- The relay: encrypted agent sessions. Everything belongs to one account, whose id leads each key; what clients encrypt is kept as it
-- came. `changed_seq` is the account's number of the row's last change that clients were told of.

CREATE TABLE res_roots (                     -- as auth_roots, for what is stored beside people's data: keys that outlive the secret
    purpose text NOT NULL PRIMARY KEY,
    sealed bytea NOT NULL,
    made_at bigint NOT NULL,
    sealed_at bigint NOT NULL
) /*sqlite: WITHOUT ROWID*/;

CREATE TABLE res_relay_heads (
    account_id text NOT NULL PRIMARY KEY,
    seq bigint NOT NULL,                     -- of the account's last update
    feed_seq bigint NOT NULL                 -- of the last item of its feed
) /*sqlite: WITHOUT ROWID*/;

CREATE TABLE res_relay_updates (             -- the latest updates, for workers that missed their announcement
    account_id text NOT NULL,
    seq bigint NOT NULL,
    id text NOT NULL,
    audience text NOT NULL,
    audience_id text NOT NULL,
    body bytea,                              -- NULL: made again from what `ref` names
    ref text NOT NULL,
    sender text NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (account_id, seq)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX res_relay_updates_by_age ON res_relay_updates (created_at);

CREATE TABLE res_relay_tombstones (          -- what was deleted, so that a client which was away hears of it
    account_id text NOT NULL,
    seq bigint NOT NULL,
    kind text NOT NULL,                      -- session | machine | artifact
    id text NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (account_id, seq, kind, id)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX res_relay_tombstones_by_age ON res_relay_tombstones (created_at);

CREATE TABLE res_relay_sessions (
    account_id text NOT NULL,
    id text NOT NULL,
    tag text NOT NULL,
    seq bigint NOT NULL,                     -- number of its last message
    metadata text NOT NULL,
    metadata_version bigint NOT NULL,
    agent_state text,
    agent_state_version bigint NOT NULL,
    data_encryption_key bytea,
    active bigint NOT NULL,
    last_active_at bigint NOT NULL,
    stopped_at bigint,
    stopped_reason text,
    archived_at bigint,
    archive_reason text,
    archive_error text,
    changed_seq bigint NOT NULL,
    created_seq bigint NOT NULL,             -- of the update that told its creation
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (account_id, id)
) /*sqlite: WITHOUT ROWID*/;

CREATE UNIQUE INDEX res_relay_sessions_by_tag ON res_relay_sessions (account_id, tag);
CREATE INDEX res_relay_sessions_by_update ON res_relay_sessions (account_id, updated_at);
CREATE INDEX res_relay_sessions_by_change ON res_relay_sessions (account_id, changed_seq);
CREATE INDEX res_relay_sessions_by_id ON res_relay_sessions (id);  -- for messages of many accounts that are stored together
CREATE INDEX res_relay_sessions_active ON res_relay_sessions (last_active_at) WHERE active = 1;
CREATE INDEX res_relay_sessions_active_of ON res_relay_sessions (account_id, last_active_at) WHERE active = 1;
CREATE INDEX res_relay_sessions_empty ON res_relay_sessions (updated_at) WHERE active = 0 AND seq = 0;

CREATE TABLE res_relay_messages (
    account_id text NOT NULL,
    session_id text NOT NULL,
    seq bigint NOT NULL,                     -- from 1, without gaps
    id text NOT NULL,
    local_id text,
    content bytea NOT NULL,                  -- JSON as clients get it back
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (account_id, session_id, seq)
) /*sqlite: WITHOUT ROWID*/;

CREATE UNIQUE INDEX res_relay_messages_by_local_id ON res_relay_messages (account_id, session_id, local_id)
    WHERE local_id IS NOT NULL;

CREATE TABLE res_relay_removed_sessions (    -- deleted ones with more messages than one transaction removes
    account_id text NOT NULL,
    session_id text NOT NULL,
    PRIMARY KEY (account_id, session_id)
) /*sqlite: WITHOUT ROWID*/;

CREATE TABLE res_relay_machines (
    account_id text NOT NULL,
    id text NOT NULL,                        -- chosen by the machine; another account may have the same
    metadata text NOT NULL,
    metadata_version bigint NOT NULL,
    daemon_state text,
    daemon_state_version bigint NOT NULL,
    data_encryption_key bytea,
    seq bigint NOT NULL,
    active bigint NOT NULL,
    last_active_at bigint NOT NULL,
    changed_seq bigint NOT NULL,
    created_seq bigint NOT NULL,             -- of the update that told its creation
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (account_id, id)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX res_relay_machines_by_change ON res_relay_machines (account_id, changed_seq);
CREATE INDEX res_relay_machines_active ON res_relay_machines (last_active_at) WHERE active = 1;

CREATE TABLE res_relay_presence (            -- machines that are connected, by worker; a worker that is gone stops renewing its rows
    account_id text NOT NULL,
    machine_id text NOT NULL,
    worker_id text NOT NULL,
    seen_at bigint NOT NULL,
    PRIMARY KEY (account_id, machine_id, worker_id)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX res_relay_presence_by_worker ON res_relay_presence (worker_id, seen_at);
CREATE INDEX res_relay_presence_by_age ON res_relay_presence (seen_at);

CREATE TABLE res_relay_artifacts (
    account_id text NOT NULL,
    id text NOT NULL,
    header bytea NOT NULL,
    header_version bigint NOT NULL,
    body bytea NOT NULL,
    body_version bigint NOT NULL,
    data_encryption_key bytea NOT NULL,
    seq bigint NOT NULL,
    changed_seq bigint NOT NULL,
    created_seq bigint NOT NULL,             -- of the update that told its creation
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (account_id, id)
) /*sqlite: WITHOUT ROWID*/;

CREATE UNIQUE INDEX res_relay_artifacts_by_id ON res_relay_artifacts (id);
CREATE INDEX res_relay_artifacts_by_update ON res_relay_artifacts (account_id, updated_at);
CREATE INDEX res_relay_artifacts_by_change ON res_relay_artifacts (account_id, changed_seq);

CREATE TABLE res_relay_access_keys (
    account_id text NOT NULL,
    session_id text NOT NULL,
    machine_id text NOT NULL,
    data text NOT NULL,
    data_version bigint NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (account_id, session_id, machine_id)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX res_relay_access_keys_by_machine ON res_relay_access_keys (account_id, machine_id);

CREATE TABLE res_relay_usage (
    account_id text NOT NULL,
    session_id text NOT NULL,                -- empty: of no session
    key text NOT NULL,
    id text NOT NULL,
    data text NOT NULL,                      -- JSON {tokens, cost}
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (account_id, session_id, key)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX res_relay_usage_by_time ON res_relay_usage (account_id, created_at, session_id, key);

CREATE TABLE res_relay_usage_limits (
    account_id text NOT NULL PRIMARY KEY,
    data text NOT NULL,                      -- JSON as the machine last said it
    updated_at bigint NOT NULL
) /*sqlite: WITHOUT ROWID*/;

CREATE TABLE res_relay_accounts (            -- what an account shows of itself, and how its apps are set up
    account_id text NOT NULL PRIMARY KEY,
    settings text,
    settings_version bigint NOT NULL,
    first_name text,
    last_name text,
    username text,
    username_key text /*postgres: COLLATE "C"*/, -- in lower case; compared by code point, so that prefixes are ranges
    bio text,
    show_online_status bigint NOT NULL,
    profile_visibility text NOT NULL,        -- public | friends-only
    friend_request_permission text NOT NULL, -- anyone | friends-of-friends | none
    github_id text,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL
) /*sqlite: WITHOUT ROWID*/;

CREATE UNIQUE INDEX res_relay_accounts_by_username ON res_relay_accounts (username_key) WHERE username_key IS NOT NULL;
CREATE UNIQUE INDEX res_relay_accounts_by_github ON res_relay_accounts (github_id) WHERE github_id IS NOT NULL;

CREATE TABLE res_relay_github (
    account_id text NOT NULL PRIMARY KEY,
    github_id text NOT NULL,
    profile text NOT NULL,                   -- JSON as GitHub gave it
    token bytea,                             -- sealed
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL
) /*sqlite: WITHOUT ROWID*/;

CREATE TABLE res_relay_vendor_tokens (
    account_id text NOT NULL,
    vendor text NOT NULL,
    token bytea NOT NULL,                    -- sealed
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (account_id, vendor)
) /*sqlite: WITHOUT ROWID*/;

CREATE TABLE res_relay_relationships (
    account_id text NOT NULL,                -- whose view of
    other_id text NOT NULL,                  -- whom
    status text NOT NULL,                    -- none | requested | pending | friend | rejected
    accepted_at bigint,
    last_notified_at bigint,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (account_id, other_id)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX res_relay_relationships_by_other ON res_relay_relationships (other_id, status);

CREATE TABLE res_relay_feed (
    account_id text NOT NULL,
    counter bigint NOT NULL,
    id text NOT NULL,
    repeat_key text,
    body text NOT NULL,                      -- JSON
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (account_id, counter)
) /*sqlite: WITHOUT ROWID*/;

CREATE UNIQUE INDEX res_relay_feed_by_repeat_key ON res_relay_feed (account_id, repeat_key) WHERE repeat_key IS NOT NULL;

CREATE TABLE res_relay_kv (
    account_id text NOT NULL,
    key text /*postgres: COLLATE "C"*/ NOT NULL,
    value bytea,                             -- NULL: deleted; the version stays
    version bigint NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (account_id, key)
) /*sqlite: WITHOUT ROWID*/;

CREATE TABLE res_relay_push_tokens (
    account_id text NOT NULL,
    token text NOT NULL,
    id text NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (account_id, token)
) /*sqlite: WITHOUT ROWID*/;

CREATE TABLE res_relay_voice (               -- conversations that were begun, for the limits of voice
    account_id text NOT NULL,
    id text NOT NULL,
    conversation_id text NOT NULL,
    started_at bigint NOT NULL,
    duration_seconds bigint,
    PRIMARY KEY (account_id, id)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX res_relay_voice_by_time ON res_relay_voice (account_id, started_at);

CREATE TABLE res_relay_shares (
    account_id text NOT NULL,                -- the session's owner
    session_id text NOT NULL,
    id text NOT NULL,
    user_id text NOT NULL,                   -- with whom
    permission text NOT NULL,                -- view_only | view_and_chat
    shared_at bigint NOT NULL,
    PRIMARY KEY (account_id, session_id, id)
) /*sqlite: WITHOUT ROWID*/;

CREATE UNIQUE INDEX res_relay_shares_by_user ON res_relay_shares (account_id, session_id, user_id);
CREATE INDEX res_relay_shares_of_user ON res_relay_shares (user_id);

CREATE TABLE res_relay_share_urls (
    account_id text NOT NULL,
    session_id text NOT NULL,
    token text NOT NULL,
    password_hash text,
    permission text NOT NULL,
    expires_at bigint,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (account_id, session_id)
) /*sqlite: WITHOUT ROWID*/;

CREATE UNIQUE INDEX res_relay_share_urls_by_token ON res_relay_share_urls (token);

CREATE TABLE res_relay_invitations (
    account_id text NOT NULL,
    session_id text NOT NULL,
    id text NOT NULL,
    email text NOT NULL,
    permission text NOT NULL,
    token_hash bytea NOT NULL,
    status text NOT NULL,                    -- pending | accepted | expired | revoked
    invited_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    PRIMARY KEY (account_id, session_id, id)
) /*sqlite: WITHOUT ROWID*/;

CREATE UNIQUE INDEX res_relay_invitations_by_token ON res_relay_invitations (token_hash);
CREATE UNIQUE INDEX res_relay_invitations_pending ON res_relay_invitations (account_id, session_id, email)
    WHERE status = 'pending';
CREATE INDEX res_relay_invitations_by_expiry ON res_relay_invitations (status, expires_at);
