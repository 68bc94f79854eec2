-- Encrypted sync. Every row leads with its stream, which is its owner's id, so the tables shard by account.
-- Types are shared by both engines: text, bigint (instants in Unix milliseconds, flags 0/1), bytea.

-- One row for each stream: the lock, the head and the quota counter in one place. A push holds this row to its commit.
CREATE TABLE sync_streams (
    id text NOT NULL PRIMARY KEY,            -- a user's personal stream has the user's id
    kind text NOT NULL,                      -- 'user', or 'gone' while the rows of a deleted account are being removed
    owner_id text NOT NULL,
    last_sequence bigint NOT NULL,           -- never goes back, also after deletions
    bytes bigint NOT NULL,                   -- what the quota counts: logs and snapshots of live vaults
    logs bigint NOT NULL,                    -- log rows of live vaults
    removed bigint NOT NULL,                 -- sequence numbers whose rows were removed on purpose
    epoch text NOT NULL,                     -- made anew after a restore, so that devices push again
    quota_bytes bigint,                      -- NULL: the server's default; 0: no limit
    next_vault_no bigint NOT NULL,
    created_at bigint NOT NULL
);

-- One row for each life of a vault. A deleted vault keeps its row (deleted_at) until its logs are gone; a vault made
-- again under the same id gets a new number, so the old rows can never be seen through it.
CREATE TABLE sync_vaults (
    stream_id text NOT NULL,
    vault_no bigint NOT NULL,
    vault_id text NOT NULL,
    encrypted_name text,
    name_nonce text,
    created_at bigint NOT NULL,
    deleted_at bigint,
    last_push_at bigint,
    head bigint NOT NULL,                    -- sequence of the newest log, 0 when there is none
    chain bytea NOT NULL,                    -- SHA-256 chain at head
    logs bigint NOT NULL,
    bytes bigint NOT NULL,                   -- logs and snapshots
    largest bigint NOT NULL,                 -- no log is larger: bounds what a page of a pull can hold
    dropped_upto bigint NOT NULL,            -- logs up to here are compacted away: invisible, kept for some days
    dropped_at bigint,
    removed_upto bigint NOT NULL,            -- rows up to here are gone; follows dropped_upto
    base_chain bytea NOT NULL,               -- chain at removed_upto
    PRIMARY KEY (stream_id, vault_no)
);
CREATE UNIQUE INDEX sync_vaults_live ON sync_vaults (stream_id, vault_id) WHERE deleted_at IS NULL;
CREATE INDEX sync_vaults_deleted ON sync_vaults (deleted_at) WHERE deleted_at IS NOT NULL;

-- The log. On SQLite this stays a rowid table: appends go to the end of the file whatever the account, and long rows
-- do not spill; measured against a clustered table, reads are equal and interleaved appends are faster.
CREATE TABLE sync_logs (
    stream_id text NOT NULL,
    vault_no bigint NOT NULL,
    sequence bigint NOT NULL,
    size bigint NOT NULL,                    -- small columns first: reading them need not walk a long ciphertext
    created_at bigint NOT NULL,
    key_epoch bigint NOT NULL,
    device_id text,
    dedupe_key bytea NOT NULL,               -- 0x01 + the client's UUID, or 0x00 + time prefix + SHA-256 of the content
    chain bytea NOT NULL,
    haex_timestamp text NOT NULL,
    nonce text NOT NULL,
    encrypted_data text NOT NULL
);
CREATE UNIQUE INDEX sync_logs_order ON sync_logs (stream_id, vault_no, sequence);
-- The key leads, since it grows with time: pushes of all accounts then touch the same few pages at the end of this index,
-- where an order by account would make every push of another account write a page of its own.
CREATE UNIQUE INDEX sync_logs_dedupe ON sync_logs (dedupe_key, stream_id, vault_no);

-- What a late retry of a removed log is answered with.
CREATE TABLE sync_dropped_keys (
    stream_id text NOT NULL,
    vault_no bigint NOT NULL,
    dedupe_key bytea NOT NULL,
    sequence bigint NOT NULL,
    created_at bigint NOT NULL,
    removed_at bigint NOT NULL,
    PRIMARY KEY (stream_id, vault_no, dedupe_key)
) /*sqlite: WITHOUT ROWID*/;
CREATE INDEX sync_dropped_keys_age ON sync_dropped_keys (removed_at);

CREATE TABLE sync_vault_keys (
    stream_id text NOT NULL,
    vault_id text NOT NULL,
    key_epoch bigint NOT NULL,
    id text NOT NULL,
    version bigint NOT NULL,
    encrypted_vault_key text NOT NULL,
    salt text NOT NULL,
    nonce text NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (stream_id, vault_id, key_epoch)
) /*sqlite: WITHOUT ROWID*/;

-- A wrapped key that was replaced stays readable for a day: the device that replaced it may not have heard the answer.
CREATE TABLE sync_replaced_keys (
    stream_id text NOT NULL,
    vault_id text NOT NULL,
    key_epoch bigint NOT NULL,
    version bigint NOT NULL,
    id text NOT NULL,
    encrypted_vault_key text NOT NULL,
    salt text NOT NULL,
    nonce text NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    replaced_at bigint NOT NULL,
    PRIMARY KEY (stream_id, vault_id, key_epoch, version)
) /*sqlite: WITHOUT ROWID*/;
CREATE INDEX sync_replaced_keys_age ON sync_replaced_keys (replaced_at);

CREATE TABLE sync_snapshots (
    stream_id text NOT NULL,
    vault_no bigint NOT NULL,
    upto_sequence bigint NOT NULL,
    snapshot_id text NOT NULL,
    chain bytea NOT NULL,                    -- chain at upto_sequence
    key_epoch bigint NOT NULL,
    device_id text,
    parts bigint NOT NULL,
    bytes bigint NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (stream_id, vault_no, snapshot_id)
) /*sqlite: WITHOUT ROWID*/;

CREATE TABLE sync_snapshot_parts (
    stream_id text NOT NULL,
    vault_no bigint NOT NULL,
    snapshot_id text NOT NULL,
    part_no bigint NOT NULL,
    encrypted_data text NOT NULL,
    nonce text NOT NULL,
    PRIMARY KEY (stream_id, vault_no, snapshot_id, part_no)
);

CREATE TABLE sync_devices (
    stream_id text NOT NULL,
    device_id text NOT NULL,
    first_seen_at bigint NOT NULL,
    last_seen_at bigint NOT NULL,
    revoked_at bigint,
    PRIMARY KEY (stream_id, device_id)
) /*sqlite: WITHOUT ROWID*/;

CREATE TABLE sync_acks (
    stream_id text NOT NULL,
    vault_no bigint NOT NULL,
    device_id text NOT NULL,
    sequence bigint NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (stream_id, vault_no, device_id)
) /*sqlite: WITHOUT ROWID*/;
