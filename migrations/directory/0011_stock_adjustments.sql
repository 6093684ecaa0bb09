-- Adjustments of the stock that are under way, at most one of a sale. `plan` (JSON) says in which epochs the buckets
-- were when it began and which instances withheld the units that go back on sale. `is_listed` says that the items have
-- the new stock and the audit row stands.
CREATE TABLE stock_adjustments (
  sale_id       VARBINARY(32) NOT NULL PRIMARY KEY,
  adjustment_id BINARY(16) NOT NULL,
  sku_id        VARBINARY(32) NOT NULL,
  stock_before  INT NOT NULL,
  stock_after   INT NOT NULL,
  returned      INT NOT NULL,
  plan          TEXT NOT NULL,
  actor         VARCHAR(64) NOT NULL,
  reason        VARCHAR(200) NOT NULL,
  request_id    VARCHAR(64) NOT NULL,
  is_listed     BOOLEAN NOT NULL DEFAULT FALSE,
  begun_ms      BIGINT NOT NULL
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
