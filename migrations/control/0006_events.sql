-- How many events each partition of the order log has told.
CREATE TABLE event_logs (
  part        INT NOT NULL PRIMARY KEY,
  next_number BIGINT NOT NULL
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Up to which order of each shard the steps from before there were events are told; NULL once all are.
CREATE TABLE retold_shards (
  shard INT NOT NULL PRIMARY KEY,
  upto  VARBINARY(16) NULL
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- What every step of an order tells, one row for each transaction and partition: `events` steps as JSON, the first of
-- which has the number `first_number`. Numbers have no gaps, and are committed in their order.
CREATE TABLE order_events (
  part         INT NOT NULL,
  first_number BIGINT NOT NULL,
  events       INT NOT NULL,
  at_ms        BIGINT NOT NULL,
  payload      MEDIUMBLOB NOT NULL,
  PRIMARY KEY (part, first_number)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Which event each reader wants next.
CREATE TABLE event_readers (
  reader      VARBINARY(64) NOT NULL,
  part        INT NOT NULL,
  next_number BIGINT NOT NULL,
  PRIMARY KEY (reader, part)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Which process reads for a reader, and until when it may.
CREATE TABLE event_leases (
  reader   VARBINARY(64) NOT NULL PRIMARY KEY,
  holder   BINARY(16) NOT NULL,
  until_ms BIGINT NOT NULL
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- What became of a dead letter: `open`, `retried` or `given_back`, and when an operator decided that.
ALTER TABLE dead_letters
  ADD COLUMN state      VARCHAR(16) NOT NULL DEFAULT 'open',
  ADD COLUMN decided_ms BIGINT NULL,
  ADD KEY dead_letters_state (state, id);

-- What the events of a partition say of a sale, in sums. The words are those of the events.
CREATE TABLE view_counts (
  sale_id    VARBINARY(32) NOT NULL,
  part       INT NOT NULL,
  sku_id     VARBINARY(32) NOT NULL,
  minute     BIGINT NOT NULL,
  kind       VARCHAR(24) NOT NULL,
  from_state VARCHAR(24) NOT NULL,
  to_state   VARCHAR(24) NOT NULL,
  reason     VARCHAR(24) NOT NULL,
  currency   CHAR(3) NOT NULL,
  orders     BIGINT NOT NULL,
  units      BIGINT NOT NULL,
  amount     BIGINT NOT NULL,
  PRIMARY KEY (sale_id, part, sku_id, minute, kind, from_state, to_state, reason, currency)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Of which events the sums are: from the first to the last one of the sale in the partition.
CREATE TABLE view_marks (
  part         INT NOT NULL,
  sale_id      VARBINARY(32) NOT NULL,
  first_number BIGINT NOT NULL,
  last_number  BIGINT NOT NULL,
  events       BIGINT NOT NULL,
  PRIMARY KEY (part, sale_id)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
