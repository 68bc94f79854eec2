-- Keys that outlive the configured secret: what they have sealed, signed or hashed is stored. Each is sealed under the secret.

CREATE TABLE auth_roots (
    purpose text NOT NULL PRIMARY KEY,
    sealed bytea NOT NULL,                   -- begins with the id of the key made from the secret
    made_at bigint NOT NULL,
    sealed_at bigint NOT NULL                -- when it was last sealed anew: since then the present secret counts
) /*sqlite: WITHOUT ROWID*/;
