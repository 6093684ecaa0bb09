-- An instance's control database: what its order writers decide with, in the transaction of the orders.

-- This instance's share of a SKU. I1 rests on its condition.
CREATE TABLE ledger (
  sale_id  VARBINARY(32) NOT NULL,
  sku_id   VARBINARY(32) NOT NULL,
  allotted BIGINT NOT NULL DEFAULT 0,
  held     BIGINT NOT NULL DEFAULT 0,
  sold     BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (sale_id, sku_id),
  CONSTRAINT ledger_not_oversold CHECK (0 <= held AND 0 <= sold AND held + sold <= allotted)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The whole stock of a SKU whose home is this instance.
CREATE TABLE pool (
  sale_id VARBINARY(32) NOT NULL,
  sku_id  VARBINARY(32) NOT NULL,
  stock   BIGINT NOT NULL,
  granted BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (sale_id, sku_id),
  CONSTRAINT pool_not_overgranted CHECK (0 <= granted AND granted <= stock)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Units moved from a home's pool to a taker's ledger: one row on each, the same grant_id. The home's row is
-- unsettled until the taker's is known to stand.
CREATE TABLE grants (
  grant_id BINARY(16) NOT NULL PRIMARY KEY,
  sale_id  VARBINARY(32) NOT NULL,
  sku_id   VARBINARY(32) NOT NULL,
  taker    INT NOT NULL,
  units    BIGINT NOT NULL,
  settled  BOOLEAN NOT NULL,
  at       DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
  KEY grants_unsettled (settled, taker)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The only position that counts; Kafka's group offset is for graphs.
CREATE TABLE consumer_positions (
  topic       VARCHAR(200) NOT NULL,
  part        INT NOT NULL,
  next_offset BIGINT NOT NULL,
  PRIMARY KEY (topic, part)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Stock owed to Redis. A row may stand twice; releasing is idempotent.
CREATE TABLE release_outbox (
  id       BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  order_id BINARY(16) NOT NULL,
  sale_id  VARBINARY(32) NOT NULL,
  sku_id   VARBINARY(32) NOT NULL,
  user_id  VARBINARY(64) NOT NULL,
  quantity INT NOT NULL,
  at       DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE dead_letters (
  id         BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  topic      VARCHAR(200) NOT NULL,
  part       INT NOT NULL,
  log_offset BIGINT NOT NULL,
  reason     VARCHAR(32) NOT NULL,
  payload    MEDIUMBLOB NOT NULL,
  at         DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
  UNIQUE KEY dead_letters_place (topic, part, log_offset)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
