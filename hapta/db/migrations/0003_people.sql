-- Accounts that need no e-mail address or password, their profiles, and marks that end tokens before their time.

ALTER TABLE res_accounts RENAME TO res_accounts_before;

CREATE TABLE res_accounts (
    id text NOT NULL PRIMARY KEY,
    email text,                              -- as given, without blanks around it
    email_key text UNIQUE,                   -- NFKC, lower case: what makes two addresses the same
    email_verified bigint NOT NULL,
    phone text UNIQUE,                       -- E.164
    phone_verified bigint NOT NULL,
    password_hash text,                      -- "<scheme>:<hash>", so that schemes can be replaced; NULL: no password
    auth_salt text,                          -- the client's own salt for the login split; the server only hands it back
    roles text NOT NULL,                     -- separated by blanks
    disabled bigint NOT NULL,
    profile text,                            -- JSON of what is set of OpenID's standard claims
    token_version bigint NOT NULL,           -- raised to end every token at once
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL
);
INSERT INTO res_accounts (id, email, email_key, email_verified, phone, phone_verified, password_hash, auth_salt, roles,
    disabled, profile, token_version, created_at, updated_at)
SELECT id, email, email_key, 0, NULL, 0, password_hash, auth_salt, 'user', 0, NULL, token_version, created_at, updated_at
FROM res_accounts_before;
DROP TABLE res_accounts_before;

-- Changes of people that the auth side has not taken in yet. Written with the change, removed once the auth side has
-- committed its part; whatever a crash leaves here is tried again.
CREATE TABLE res_pending (
    user_id text NOT NULL,
    id text NOT NULL,
    version bigint NOT NULL,
    kind text NOT NULL,
    cause text NOT NULL,                     -- JSON: who did it, from where, which session outlives it
    created_at bigint NOT NULL,
    PRIMARY KEY (user_id, id)
) /*sqlite: WITHOUT ROWID*/;

-- The least version of a person that may still sign in. A login locks the row, so that none is made with what has changed.
CREATE TABLE auth_epochs (
    user_id text NOT NULL PRIMARY KEY,
    min_version bigint NOT NULL
) /*sqlite: WITHOUT ROWID*/;

-- What counts once: tokens of a half-finished login, and changes of people that were taken in.
CREATE TABLE auth_spent (
    user_id text NOT NULL,
    id text NOT NULL,
    expires_at bigint NOT NULL,
    PRIMARY KEY (user_id, id)
) /*sqlite: WITHOUT ROWID*/;
CREATE INDEX auth_spent_by_expiry ON auth_spent (expires_at);

ALTER TABLE auth_sessions ADD COLUMN roles text NOT NULL DEFAULT 'user';
ALTER TABLE auth_sessions ADD COLUMN address text;     -- coarse: a network, never a host
ALTER TABLE auth_sessions ADD COLUMN successor bytea;  -- the present key, sealed under the previous one, for the overlap
CREATE INDEX auth_sessions_rolled ON auth_sessions (rolled_at) WHERE successor IS NOT NULL;
CREATE INDEX auth_sessions_generations ON auth_sessions (rolled_at) WHERE previous_generation IS NOT NULL;

ALTER TABLE auth_revocations ADD COLUMN subject text;  -- `g:<family>`, `j:<token>`, `c:<client>`; NULL: of a session
CREATE INDEX auth_revocations_by_subject ON auth_revocations (subject) WHERE subject IS NOT NULL;
