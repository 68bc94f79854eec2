-- Second factors, passkeys, links to other providers, and pairing of keys.

CREATE TABLE auth_totp (
    user_id text NOT NULL PRIMARY KEY,
    seed bytea NOT NULL,                     -- sealed
    confirmed_at bigint,                     -- NULL: shown, not yet proved; it asks nobody for anything
    last_step bigint NOT NULL,               -- of the newest accepted code: no code counts twice
    created_at bigint NOT NULL
) /*sqlite: WITHOUT ROWID*/;

CREATE TABLE auth_recovery_codes (
    user_id text NOT NULL,
    code_hash bytea NOT NULL,
    consumed_at bigint,
    PRIMARY KEY (user_id, code_hash)
) /*sqlite: WITHOUT ROWID*/;

CREATE TABLE auth_factor_tries (
    user_id text NOT NULL PRIMARY KEY,
    failures bigint NOT NULL,                -- since `since`, all kinds of codes together
    since bigint NOT NULL
) /*sqlite: WITHOUT ROWID*/;

CREATE TABLE auth_passkeys (
    user_id text NOT NULL,
    credential_id bytea NOT NULL,
    public_key bytea NOT NULL,
    sign_count bigint NOT NULL,
    name text NOT NULL,
    aaguid text NOT NULL,
    synced bigint NOT NULL,                  -- 1: may leave the device it was made on (backup eligible)
    backed_up bigint NOT NULL,
    created_at bigint NOT NULL,
    last_used_at bigint,
    PRIMARY KEY (user_id, credential_id)
) /*sqlite: WITHOUT ROWID*/;

-- One credential belongs to one person, whoever asks.
CREATE UNIQUE INDEX auth_passkeys_by_credential ON auth_passkeys (credential_id);

-- The random handle by which authenticators know a person; never the account's own id.
CREATE TABLE auth_passkey_handles (
    user_id text NOT NULL PRIMARY KEY,
    handle bytea NOT NULL UNIQUE
) /*sqlite: WITHOUT ROWID*/;

CREATE TABLE auth_passkey_challenges (
    id bytea NOT NULL PRIMARY KEY,           -- hash of what the client holds
    purpose text NOT NULL,
    bound_to text NOT NULL,                  -- session or person that may answer; empty: anybody
    challenge bytea NOT NULL,
    expires_at bigint NOT NULL
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX auth_passkey_challenges_by_expiry ON auth_passkey_challenges (expires_at);

-- --- Other ways to be somebody: keys of apps, and accounts at other providers ---

CREATE TABLE auth_links (
    provider text NOT NULL,                  -- 'key', 'github', 'google', 'oidc'
    subject text NOT NULL,                   -- how the provider names the person, for good; of a key, its bytes in hex;
                                             -- of 'oidc', the issuer and the name there, with # between them
    user_id text NOT NULL,
    label text,                              -- what the owner sees: a login name there
    created_at bigint NOT NULL,
    last_used_at bigint,
    PRIMARY KEY (provider, subject)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX auth_links_by_user ON auth_links (user_id);

-- --- Pairing: a device shows a public key, a signed-in one answers with a box that only the first can open ---

CREATE TABLE auth_pairings (
    kind text NOT NULL,                      -- 'terminal' or 'account'
    public_key text NOT NULL,                -- X25519, lower-case hex
    id text NOT NULL,
    supports_v2 bigint NOT NULL,
    response text,                           -- opaque; NULL: nobody has answered
    user_id text,                            -- who answered
    session_id text,                         -- of the device that asked, once it has fetched the answer
    created_at bigint NOT NULL,
    answered_at bigint,
    expires_at bigint NOT NULL,
    PRIMARY KEY (kind, public_key)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX auth_pairings_by_expiry ON auth_pairings (expires_at);

-- --- Sign-in through other providers: an attempt lives in the browser's cookie; here stands which ones were used ---

CREATE TABLE auth_upstream_used (
    hash bytea NOT NULL PRIMARY KEY,         -- of its state
    expires_at bigint NOT NULL               -- when the attempt would have ended: the row is needed no longer
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX auth_upstream_used_by_expiry ON auth_upstream_used (expires_at);
