-- Authorization codes and families of refresh tokens. Both belong to a client, so their keys lead with it; people and their
-- sessions end them through an index.

CREATE TABLE auth_codes (
    client_id text NOT NULL,
    hash bytea NOT NULL,                     -- SHA-256 of the code
    user_id text NOT NULL,
    session_id text NOT NULL,
    content bytea NOT NULL,                  -- what was allowed, as MessagePack: ids and words, never a secret
    expires_at bigint NOT NULL,
    consumed_at bigint,                      -- set once, by whoever comes first
    family_id text,                          -- what its first use began; ended when it is used again
    replayed_at bigint,                      -- when it was used again
    PRIMARY KEY (client_id, hash)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX auth_codes_by_user ON auth_codes (user_id);
CREATE INDEX auth_codes_by_expiry ON auth_codes (expires_at);

-- One row for each authorization that was redeemed: what its tokens may be, and the one refresh token that counts now. A chain
-- of refresh tokens is this one row, so there is never a second head; members older than the last but one are known by
-- their signature alone.
CREATE TABLE auth_families (
    client_id text NOT NULL,
    id text NOT NULL,
    user_id text NOT NULL,
    session_id text NOT NULL,                -- of the user, when they consented; the family ends with it
    subject text NOT NULL,                   -- the `sub` that this client sees
    scopes text NOT NULL,                    -- separated by blanks
    resources text NOT NULL,                 -- separated by blanks; the first one is the default
    dpop_jkt text,                           -- thumbprint of the key that must prove itself (RFC 9449)
    authenticated_at bigint NOT NULL,
    amr text NOT NULL,
    acr text,
    wants_auth_time bigint NOT NULL,
    person_version bigint NOT NULL,          -- of the user, when they consented
    generation bigint NOT NULL,
    head_hash bytea,                         -- SHA-256 of the `jti` that counts; NULL: there is no refresh token
    previous_hash bytea,                     -- of its direct parent
    sealed_successor bytea,                  -- the head, readable only with its parent; erased after the grace window
    created_at bigint NOT NULL,
    rotated_at bigint NOT NULL,
    idle_expires_at bigint NOT NULL,
    absolute_expires_at bigint NOT NULL,
    revoked_at bigint,
    revoked_reason text,
    PRIMARY KEY (client_id, id)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX auth_families_by_user ON auth_families (user_id, session_id);
CREATE INDEX auth_families_by_expiry ON auth_families (absolute_expires_at);
CREATE INDEX auth_families_in_grace ON auth_families (rotated_at) WHERE sealed_successor IS NOT NULL;
