-- OAuth clients, their secrets and the keys that sign for third parties.
-- Nothing here belongs to a person: rows are keyed by the client, and no other table refers to them by a foreign key.

CREATE TABLE auth_clients (
    client_id text NOT NULL PRIMARY KEY,
    source text NOT NULL,                    -- 'operator' or 'dynamic'
    metadata text NOT NULL,                  -- effective metadata (RFC 7591), JSON; what is searched for stands in columns
    metadata_version bigint NOT NULL,        -- raised when what people consented to changes
    registration_hash bytea,                 -- SHA-256 of the registration access token (RFC 7592)
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    last_used_at bigint
);
CREATE INDEX auth_clients_unused ON auth_clients (created_at) WHERE source = 'dynamic' AND last_used_at IS NULL;

-- Several may be live, so that a secret is replaced without an interruption.
CREATE TABLE auth_client_secrets (
    client_id text NOT NULL,
    id text NOT NULL,
    hash bytea NOT NULL,                     -- SHA-256: the secret has 256 bits of randomness, so no slow hash is needed
    created_at bigint NOT NULL,
    expires_at bigint,
    PRIMARY KEY (client_id, id)
) /*sqlite: WITHOUT ROWID*/;

-- `jti` of client assertions (RFC 7523), until they expire: each one counts once.
CREATE TABLE auth_client_assertions (
    client_id text NOT NULL,
    jti_hash bytea NOT NULL,
    expires_at bigint NOT NULL,
    PRIMARY KEY (client_id, jti_hash)
) /*sqlite: WITHOUT ROWID*/;
CREATE INDEX auth_client_assertions_expired ON auth_client_assertions (expires_at);

-- Proofs of DPoP (RFC 9449) that were seen, until they are too old to be accepted anyway.
CREATE TABLE auth_dpop_proofs (
    hash bytea NOT NULL PRIMARY KEY,         -- SHA-256 of the key's thumbprint and the proof's `jti`
    expires_at bigint NOT NULL
) /*sqlite: WITHOUT ROWID*/;
CREATE INDEX auth_dpop_proofs_expired ON auth_dpop_proofs (expires_at);

-- Who holds one may register clients (RFC 7591, section 3).
CREATE TABLE auth_initial_tokens (
    hash bytea NOT NULL PRIMARY KEY,
    label text NOT NULL,
    uses_left bigint NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL
) /*sqlite: WITHOUT ROWID*/;

-- Signing keys. What a key is for at some moment follows from its instants alone: before activates_at it is pending, then
-- active until the next one is, then retiring until retires_at. So no worker has to move it from state to state.
CREATE TABLE auth_keys (
    kid text NOT NULL PRIMARY KEY,           -- RFC 7638 thumbprint
    alg text NOT NULL,
    serial bigint NOT NULL,                  -- counts the keys of an algorithm: of two that make the next one, one wins
    public text NOT NULL,                    -- JWK, JSON
    sealed bytea,                            -- the private key, sealed; NULL once it is retired or revoked
    created_at bigint NOT NULL,
    activates_at bigint NOT NULL,
    retires_at bigint,                       -- set when the next one is made: when no token of this one can be alive
    revoked_at bigint
);
CREATE UNIQUE INDEX auth_keys_serial ON auth_keys (alg, serial);
