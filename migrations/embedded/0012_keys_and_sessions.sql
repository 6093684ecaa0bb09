-- When a key was used last, ms since 1970.
ALTER TABLE api_keys ADD COLUMN used_ms INTEGER;

-- The sessions of admin pages. Their texts are 256 random bits, and are not kept.
CREATE TABLE admin_sessions (
  session_hash BLOB    NOT NULL PRIMARY KEY,
  key_hash     BLOB    NOT NULL,
  begun_ms     INTEGER NOT NULL,
  seen_ms      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX admin_sessions_key ON admin_sessions (key_hash, begun_ms);
