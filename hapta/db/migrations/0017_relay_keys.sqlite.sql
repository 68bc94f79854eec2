-- Ids in the two indexes of messages as 16 bytes in place of 36 characters (docs/decisions/0007): an append in the middle of an index
-- splits a page when it is full, and rewrites its neighbours then. A message wrote four pages of the write-ahead log and writes 3.3.
-- Text that is no UUID stands there as it is.

DROP INDEX res_relay_messages_order;
DROP INDEX res_relay_messages_by_local_id;
CREATE UNIQUE INDEX res_relay_messages_order ON res_relay_messages (
    coalesce(unhex(account_id, '-'), account_id), coalesce(unhex(session_id, '-'), session_id), seq
);
CREATE UNIQUE INDEX res_relay_messages_by_local_id ON res_relay_messages (
    coalesce(unhex(session_id, '-'), session_id), local_id
) WHERE local_id IS NOT NULL;
