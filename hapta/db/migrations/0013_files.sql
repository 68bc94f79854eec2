-- Files: what is known of them. Their bytes lie in the store of bytes under `blob_key`, and are never there without a row for long:
-- an upload begins as a row of `res_file_pending`, a removal goes on in `res_file_removals` until the bytes are gone.

CREATE TABLE res_files (
    user_id text NOT NULL,
    id text NOT NULL,                        -- grows with time, so that its order is that of age
    blob_key text NOT NULL,
    category text NOT NULL,                  -- avatars, documents, files
    name text NOT NULL,
    media_type text NOT NULL,
    size bigint NOT NULL,
    sha256 bytea NOT NULL,
    width bigint,
    height bigint,
    thumbhash text,
    reuse_key text,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (user_id, id)
) /*sqlite: WITHOUT ROWID*/;

CREATE UNIQUE INDEX res_files_by_reuse_key ON res_files (user_id, reuse_key) WHERE reuse_key IS NOT NULL;
CREATE INDEX res_files_by_category ON res_files (user_id, category, id);
CREATE INDEX res_files_by_blob ON res_files (user_id, blob_key);

-- What an account keeps; the row is locked by whoever adds to it.
CREATE TABLE res_file_accounts (
    user_id text NOT NULL PRIMARY KEY,
    bytes bigint NOT NULL,
    files bigint NOT NULL
) /*sqlite: WITHOUT ROWID*/;

-- Bytes that are being written now. Whoever writes them renews the lease; what is over is removed.
CREATE TABLE res_file_pending (
    user_id text NOT NULL,
    blob_key text NOT NULL,
    expires_at bigint NOT NULL,
    PRIMARY KEY (user_id, blob_key)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX res_file_pending_by_expiry ON res_file_pending (expires_at);

-- Bytes that nobody can reach any more and that are still to be removed.
CREATE TABLE res_file_removals (
    user_id text NOT NULL,
    blob_key text NOT NULL,
    unfinished bigint NOT NULL,              -- 1: of an upload in pieces, which may not be an object yet
    due_at bigint NOT NULL,
    PRIMARY KEY (user_id, blob_key)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX res_file_removals_by_due ON res_file_removals (due_at);

-- Uploads over several requests: in pieces (tus), or straight to the store (direct).
CREATE TABLE res_file_uploads (
    user_id text NOT NULL,
    id text NOT NULL,                        -- also the id of the file that it becomes
    kind text NOT NULL,                      -- tus, direct
    blob_key text NOT NULL,
    length bigint,                           -- NULL: not told yet
    metadata text NOT NULL,                  -- Upload-Metadata as it came
    name text NOT NULL,
    media_type text NOT NULL,                -- as the client calls it; empty: it says nothing
    category text NOT NULL,
    reuse_key text,
    file_id text,                            -- the file that came of it; NULL: none yet
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    PRIMARY KEY (user_id, id)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX res_file_uploads_by_expiry ON res_file_uploads (expires_at);

-- Files in which the scanner found something: no route reads them.
CREATE TABLE res_file_quarantine (
    user_id text NOT NULL,
    id text NOT NULL,
    blob_key text NOT NULL,
    name text NOT NULL,
    media_type text NOT NULL,
    size bigint NOT NULL,
    sha256 bytea NOT NULL,
    finding text NOT NULL,                   -- the scanner's name for it
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    PRIMARY KEY (user_id, id)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX res_file_quarantine_by_expiry ON res_file_quarantine (expires_at);

-- Encrypted attachments of relay sessions: opaque bytes.
CREATE TABLE res_file_attachments (
    user_id text NOT NULL,
    session_id text NOT NULL,
    name text NOT NULL,
    blob_key text NOT NULL,
    size bigint NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (user_id, session_id, name)
) /*sqlite: WITHOUT ROWID*/;
