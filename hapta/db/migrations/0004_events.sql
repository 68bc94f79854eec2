-- The audit log and the delivery of auth events to webhooks.

-- One row for each UTC day that has events: the lock of whoever appends, and the signed head of the day's chain. Days are
-- chained as well: `base` is the head of the day before. Rows stay when their events are swept.
CREATE TABLE auth_event_days (
    day bigint NOT NULL PRIMARY KEY,         -- days since 1970-01-01; never lower than a day that is there already
    base bytea NOT NULL,                     -- head of the day before, 32 zero bytes on the first
    events bigint NOT NULL,                  -- how many there are, which is also the number of the last
    head bytea NOT NULL,                     -- hash of the last event; `base` while there is none
    key_id text NOT NULL,                    -- of the key that signed
    signature bytea NOT NULL,                -- Ed25519 over day, base, events and head
    swept_at bigint,                         -- when the day's events were removed for their age
    sweep_signature bytea                    -- over day, head and swept_at: nobody else can say so
);

-- One row, locked by whoever writes the very first event: before that there is no day to queue at.
CREATE TABLE auth_event_start (
    id bigint NOT NULL PRIMARY KEY
);

CREATE TABLE auth_events (
    day bigint NOT NULL,
    number bigint NOT NULL,                  -- 1, 2, 3, ... within the day
    id text NOT NULL,
    at bigint NOT NULL,
    type text NOT NULL,
    outcome text NOT NULL,
    actor text,
    user_id text,
    client_id text,
    session_id text,
    reason text,
    address text,                            -- as it is, or 'h:' and a keyed hash
    user_agent text,
    device_id text,
    request_id text,
    data text,                               -- JSON object of ids and short words
    prev_hash bytea NOT NULL,
    hash bytea NOT NULL,                     -- SHA-256 over prev_hash and all columns above
    PRIMARY KEY (day, number)
) /*sqlite: WITHOUT ROWID*/;
CREATE INDEX auth_events_of_user ON auth_events (user_id, day, number);
CREATE INDEX auth_events_of_type ON auth_events (type, day, number);

-- Receivers of events.
CREATE TABLE auth_webhooks (
    id text NOT NULL PRIMARY KEY,
    url text NOT NULL,
    description text NOT NULL,
    types text NOT NULL,                     -- as given, separated by blanks: 'auth.*', 'user.created'
    contact text,                            -- e-mail address of whoever is told when it is disabled
    secret bytea NOT NULL,                   -- sealed `whsec_...`
    previous_secret bytea,                   -- sealed; signs as well until `previous_until`
    previous_until bigint,
    signing_key bytea,                       -- sealed Ed25519 key, for receivers that want `v1a`
    state text NOT NULL,                     -- 'active', 'disabled'
    disabled_at bigint,
    disabled_reason text,
    failing_since bigint,                    -- first failure after the last success
    paused_until bigint,                     -- it asked for a pause
    last_success_at bigint,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL
);

-- What each receiver wants, one row a pattern, so that an event finds its receivers by equality.
CREATE TABLE auth_webhook_types (
    pattern text NOT NULL,
    webhook_id text NOT NULL,
    PRIMARY KEY (pattern, webhook_id)
) /*sqlite: WITHOUT ROWID*/;

-- The outbox: the text of an event once, and a delivery for each receiver, written with the change that they tell of.
CREATE TABLE auth_webhook_messages (
    id text NOT NULL PRIMARY KEY,
    type text NOT NULL,
    body text NOT NULL,                      -- minified JSON, at most 20 KB
    created_at bigint NOT NULL
);
CREATE INDEX auth_webhook_messages_age ON auth_webhook_messages (created_at);

CREATE TABLE auth_webhook_deliveries (
    webhook_id text NOT NULL,
    message_id text NOT NULL,
    state text NOT NULL,                     -- 'pending', 'delivered', 'failed', 'canceled'
    attempts bigint NOT NULL,                -- since it was last queued
    next_at bigint NOT NULL,                 -- when it is due; while claimed: when the claim lapses
    claim text,                              -- of the attempt under way
    created_at bigint NOT NULL,
    finished_at bigint,
    last_status bigint,
    last_error text,
    PRIMARY KEY (webhook_id, message_id)
) /*sqlite: WITHOUT ROWID*/;
CREATE INDEX auth_webhook_deliveries_due ON auth_webhook_deliveries (webhook_id, next_at) WHERE state = 'pending';
CREATE INDEX auth_webhook_deliveries_of_message ON auth_webhook_deliveries (message_id);

CREATE TABLE auth_webhook_attempts (
    webhook_id text NOT NULL,
    message_id text NOT NULL,
    at bigint NOT NULL,
    id text NOT NULL,
    status bigint,                           -- of the answer; NULL: there was none
    error text,
    took_ms bigint NOT NULL,
    answer text,                             -- the beginning of the answer's body
    PRIMARY KEY (webhook_id, message_id, at, id)
) /*sqlite: WITHOUT ROWID*/;
CREATE INDEX auth_webhook_attempts_age ON auth_webhook_attempts (at);

-- Failed logins are told in sums: one row a minute and account ('' for names that nobody has).
CREATE TABLE auth_webhook_failures (
    minute bigint NOT NULL,
    user_id text NOT NULL,
    failures bigint NOT NULL,
    PRIMARY KEY (minute, user_id)
) /*sqlite: WITHOUT ROWID*/;
