-- Captures of ours that no payment row explains: they are tried again for a while, and then paid back. `next_ms` is
-- when that is due; it is NULL once there is nothing to do.
CREATE TABLE orphan_captures (
  capture    VARBINARY(255) NOT NULL PRIMARY KEY,
  payment    VARBINARY(255) NOT NULL,
  amount     BIGINT NOT NULL,
  currency   CHAR(3) NOT NULL,
  state      VARCHAR(16) NOT NULL,
  created_ms BIGINT NOT NULL,
  tries      INT NOT NULL DEFAULT 0,
  next_ms    BIGINT NULL,
  KEY orphan_captures_next (next_ms)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
