-- From when on a key is refused, and when it was used last, ms since 1970.
ALTER TABLE api_keys
  ADD COLUMN ends_ms BIGINT NULL,
  ADD COLUMN used_ms BIGINT NULL;

-- The sessions of admin pages. Their texts are 256 random bits, and are not kept.
CREATE TABLE admin_sessions (
  session_hash BINARY(32) NOT NULL PRIMARY KEY,
  key_hash     BINARY(32) NOT NULL,
  begun_ms     BIGINT NOT NULL,
  seen_ms      BIGINT NOT NULL,
  KEY admin_sessions_key (key_hash, begun_ms)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
