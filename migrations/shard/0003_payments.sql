-- An order that was paid may be paid back.
ALTER TABLE order_moves
  MODIFY kind ENUM('persisted','rejected','paid','cancelled','expired','refunded') NOT NULL,
  ALGORITHM = INPLACE, LOCK = NONE;

-- One row per attempt to pay an order. The request is kept as it was first sent (JSON), because a provider refuses
-- another one under the same key. `ask_ms` is when the provider is asked next what became of it; it is NULL once the
-- provider has given its final answer.
CREATE TABLE payments (
  order_id   BINARY(16) NOT NULL,
  attempt    INT NOT NULL,
  state      VARCHAR(16) NOT NULL,
  request    TEXT NOT NULL,
  reference  VARBINARY(255) NULL,
  url        TEXT NULL,
  capture    VARBINARY(255) NULL,
  created_ms BIGINT NOT NULL,
  closing_ms BIGINT NULL,
  ask_ms     BIGINT NULL,
  asks       INT NOT NULL DEFAULT 0,
  PRIMARY KEY (order_id, attempt),
  KEY payments_ask (ask_ms)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Captures that are paid back. `next_ms` is when the provider is asked next; it is NULL once there is nothing to ask.
CREATE TABLE refunds (
  order_id   BINARY(16) NOT NULL,
  attempt    INT NOT NULL,
  amount     BIGINT NOT NULL,
  currency   CHAR(3) NOT NULL,
  capture    VARBINARY(255) NOT NULL,
  reason     VARCHAR(32) NOT NULL,
  state      VARCHAR(16) NOT NULL,
  created_ms BIGINT NOT NULL,
  tries      INT NOT NULL DEFAULT 0,
  next_ms    BIGINT NULL,
  PRIMARY KEY (order_id, attempt),
  KEY refunds_next (next_ms)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The provider's events that were taken, and what came of them. The primary key takes each of them once.
CREATE TABLE payment_events (
  event_id VARBINARY(255) NOT NULL PRIMARY KEY,
  order_id BINARY(16) NOT NULL,
  attempt  INT NOT NULL,
  outcome  VARCHAR(32) NOT NULL,
  at_ms    BIGINT NOT NULL,
  KEY payment_events_order (order_id, attempt)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
