-- What the relay keeps large rows in, as rowid tables, for the reasons that sync_logs is one (docs/decisions/0007): appends go to the
-- end of the file whatever the account, long rows do not spill, and the inner pages of an index hold short keys in place of whole
-- rows. A message wrote five pages of the write-ahead log where it now writes three.

CREATE TABLE res_relay_messages_rows (
    account_id text NOT NULL,
    session_id text NOT NULL,
    seq bigint NOT NULL,                     -- from 1, without gaps
    id text NOT NULL,
    local_id text,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    content bytea NOT NULL                   -- JSON as clients get it back; the last column, so that the others need not walk it
);
INSERT INTO res_relay_messages_rows
    SELECT account_id, session_id, seq, id, local_id, created_at, updated_at, content FROM res_relay_messages;
DROP TABLE res_relay_messages;
ALTER TABLE res_relay_messages_rows RENAME TO res_relay_messages;
CREATE UNIQUE INDEX res_relay_messages_order ON res_relay_messages (account_id, session_id, seq);
CREATE UNIQUE INDEX res_relay_messages_by_local_id ON res_relay_messages (account_id, session_id, local_id)
    WHERE local_id IS NOT NULL;

CREATE TABLE res_relay_sessions_rows (
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
    updated_at bigint NOT NULL
);
INSERT INTO res_relay_sessions_rows
    SELECT account_id, id, tag, seq, metadata, metadata_version, agent_state, agent_state_version, data_encryption_key, active,
        last_active_at, stopped_at, stopped_reason, archived_at, archive_reason, archive_error, changed_seq, created_seq,
        created_at, updated_at
    FROM res_relay_sessions;
DROP TABLE res_relay_sessions;
ALTER TABLE res_relay_sessions_rows RENAME TO res_relay_sessions;
CREATE UNIQUE INDEX res_relay_sessions_key ON res_relay_sessions (account_id, id);
CREATE UNIQUE INDEX res_relay_sessions_by_tag ON res_relay_sessions (account_id, tag);
CREATE INDEX res_relay_sessions_by_update ON res_relay_sessions (account_id, updated_at, id);
CREATE INDEX res_relay_sessions_by_change ON res_relay_sessions (account_id, changed_seq);
CREATE INDEX res_relay_sessions_by_id ON res_relay_sessions (id);  -- for messages of many accounts that are stored together
CREATE INDEX res_relay_sessions_active ON res_relay_sessions (last_active_at) WHERE active = 1;
CREATE INDEX res_relay_sessions_active_of ON res_relay_sessions (account_id, last_active_at, id) WHERE active = 1;
CREATE INDEX res_relay_sessions_empty ON res_relay_sessions (updated_at) WHERE active = 0 AND seq = 0;
