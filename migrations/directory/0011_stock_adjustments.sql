-- Adjustments of the stock of sales. `plan` (JSON) says in which epochs the buckets were when it began and which
-- instances withheld the units that go back on sale. `phase` is `begun`, then `listed` (the items have the new stock
-- and the audit row stands) or `refused`. `under_way` is NULL once it is at its end, so that one of a sale is under way
-- at most; `taken_on_ms` says when a process last set about it. What was listed stays until the sale is settled,
-- because an instance that is set back has lost its part of it.
CREATE TABLE stock_adjustments (
  number        BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  adjustment_id BINARY(16) NOT NULL,
  sale_id       VARBINARY(32) NOT NULL,
  sku_id        VARBINARY(32) NOT NULL,
  stock_before  INT NOT NULL,
  stock_after   INT NOT NULL,
  returned      INT NOT NULL,
  plan          TEXT NOT NULL,
  actor         VARCHAR(64) NOT NULL,
  reason        VARCHAR(200) NOT NULL,
  request_id    VARCHAR(64) NOT NULL,
  phase         VARCHAR(16) NOT NULL,
  under_way     BOOLEAN NULL,
  taken_on_ms   BIGINT NOT NULL,
  UNIQUE KEY stock_adjustments_id (adjustment_id),
  UNIQUE KEY stock_adjustments_of_sale (sale_id, under_way),
  KEY stock_adjustments_under_way (under_way)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
