-- Messages to people that wait to be sent, one-time codes and links, and the throttle of failed logins.

-- == Messages, codes and links ==

-- Messages and deferred tasks that wait. `sealed` holds the address and the variables (codes, links) until it is done.
CREATE TABLE auth_outbox (
    id text NOT NULL PRIMARY KEY,            -- also the idempotency key towards providers
    kind text NOT NULL,                      -- 'email', 'sms', or 'task': work that shall not delay the answer
    name text NOT NULL,                      -- template, or name of the task
    locale text NOT NULL,
    sealed bytea,                            -- NULL once it is done or given up
    created_at bigint NOT NULL,
    due_at bigint,                           -- NULL once it is done; a claim moves it on, so a lost worker's rows come back
    keep_until bigint NOT NULL,              -- given up after that
    attempts bigint NOT NULL,
    done_at bigint,
    outcome text                             -- 'done', 'refused', 'expired'
);
CREATE INDEX auth_outbox_due ON auth_outbox (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX auth_outbox_done ON auth_outbox (done_at) WHERE done_at IS NOT NULL;

-- One row for each purpose, subject and destination: its live code, if any, and the counters of the day. It is written for
-- unknown destinations too, so that nobody can tell them apart.
CREATE TABLE auth_otp (
    subject text NOT NULL,                   -- the signed-in user; '' while nobody is (login by code)
    purpose text NOT NULL,                   -- verify, login, mfa, change
    destination bytea NOT NULL,              -- HMAC of channel and address
    user_id text,                            -- whose code it is; NULL for a destination that nobody has
    code bytea,                              -- HMAC of purpose, user, destination and code
    tries bigint NOT NULL,                   -- of the day: a new code does not reset them
    sends bigint NOT NULL,                   -- of the day
    day_started_at bigint NOT NULL,
    sent_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    PRIMARY KEY (subject, purpose, destination)
);
CREATE INDEX auth_otp_day ON auth_otp (day_started_at);
CREATE INDEX auth_otp_user ON auth_otp (user_id) WHERE user_id IS NOT NULL;

-- Budgets in fixed windows, by HMAC of what they count: messages to a destination, from an address, to a prefix.
CREATE TABLE auth_budgets (
    key bytea NOT NULL PRIMARY KEY,
    started_at bigint NOT NULL,
    ends_at bigint NOT NULL,
    used bigint NOT NULL
);
CREATE INDEX auth_budgets_end ON auth_budgets (ends_at);

-- Links of 256 bits in mails: password reset, new address, undo of a changed address.
CREATE TABLE auth_links_mailed (
    token bytea NOT NULL PRIMARY KEY,        -- SHA-256
    purpose text NOT NULL,                   -- reset, email_change, email_undo
    user_id text NOT NULL,
    person_version bigint NOT NULL,
    sealed bytea,                            -- the address that it is about
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    consumed_at bigint
);
CREATE INDEX auth_links_mailed_user ON auth_links_mailed (user_id, purpose);
CREATE INDEX auth_links_mailed_end ON auth_links_mailed (expires_at);

-- == Throttle of failed logins ==

-- One row for what is counted: an account (whether or not it exists), an address, a pair of both, a known browser.
CREATE TABLE auth_throttle (
    key bytea NOT NULL PRIMARY KEY,          -- HMAC of the kind and of what is counted
    failures bigint NOT NULL,                -- of the present window
    consecutive bigint NOT NULL,             -- since the last success
    window_at bigint NOT NULL,               -- when the window began
    blocked_until bigint NOT NULL,
    expires_at bigint NOT NULL
) /*sqlite: WITHOUT ROWID*/;
CREATE INDEX auth_throttle_by_expiry ON auth_throttle (expires_at);
