-- Encrypted blobs of sync. Object keys are compared byte by byte, as stores list them.

-- A blob of a live vault: its bytes are in the store, whole and verified. Counted in the vault's and the stream's `bytes`.
CREATE TABLE sync_blobs (
    stream_id text NOT NULL,
    vault_no bigint NOT NULL,
    hash bytea NOT NULL,                     -- SHA-256 of the ciphertext
    size bigint NOT NULL,                    -- in bytes, as they lie in the store
    object_key text /*postgres: COLLATE "C"*/ NOT NULL,
    created_at bigint NOT NULL,
    lost_at bigint,                          -- the store had no such object then; cleared when it is put again
    PRIMARY KEY (stream_id, vault_no, hash)
) /*sqlite: WITHOUT ROWID*/;
CREATE UNIQUE INDEX sync_blobs_object ON sync_blobs (object_key);

-- Objects that no blob stands for: on their way into the store (pending), or on their way out of it (doomed).
CREATE TABLE sync_blob_objects (
    object_key text /*postgres: COLLATE "C"*/ NOT NULL PRIMARY KEY,
    stream_id text NOT NULL,
    doomed bigint NOT NULL,
    since bigint NOT NULL                    -- when the upload began, or when the object was given up
) /*sqlite: WITHOUT ROWID*/;
CREATE INDEX sync_blob_objects_age ON sync_blob_objects (doomed, since);
