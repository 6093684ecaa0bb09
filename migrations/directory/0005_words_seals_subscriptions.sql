-- The words of states are known to programs alone, so that new ones need no new table.
ALTER TABLE sales MODIFY state VARCHAR(24) NOT NULL, ADD KEY sales_state (state, starts_ms);

-- The report of a sale as it was when it was settled, before any of its events go, with its view: its JSON, the SHA-256
-- of the view, and the last event of each partition that the view is built of. `cleared` says that nothing of the sale
-- is left in Redis.
CREATE TABLE sale_seals (
  sale_id   VARBINARY(32) NOT NULL PRIMARY KEY,
  sealed_ms BIGINT NOT NULL,
  hash      CHAR(64) NOT NULL,
  numbers   TEXT NOT NULL,
  report    MEDIUMTEXT NOT NULL,
  cleared   BOOLEAN NOT NULL DEFAULT FALSE,
  KEY sale_seals_cleared (cleared)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The addresses to which events are sent. What is sent is signed with both secrets, so they are kept as they are.
CREATE TABLE subscriptions (
  id               VARBINARY(32) NOT NULL PRIMARY KEY,
  url              TEXT NOT NULL,
  kinds            TEXT NOT NULL,
  secret           VARCHAR(128) NOT NULL,
  previous_secret  VARCHAR(128) NULL,
  state            VARCHAR(16) NOT NULL,
  why              VARCHAR(200) NOT NULL DEFAULT '',
  created_ms       BIGINT NOT NULL,
  failing_since_ms BIGINT NULL
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
