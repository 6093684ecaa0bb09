-- The orders of the sales that start in one month. `seckill migrate` makes a table a month, and brings every table to
-- the newest shape, which its comment names. A table without a comment has the first one.
CREATE TABLE IF NOT EXISTS orders_{yyyymm} (
  order_id    BINARY(16) NOT NULL PRIMARY KEY,
  sale_id     VARBINARY(32) NOT NULL,
  sku_id      VARBINARY(32) NOT NULL,
  user_id     VARBINARY(64) NOT NULL,
  quantity    INT NOT NULL,
  unit_price  BIGINT NOT NULL,
  currency    CHAR(3) NOT NULL,
  state       ENUM('awaiting_payment','paid','cancelled','expired','rejected') NOT NULL,
  reason      ENUM('limit','sold_out') NULL,
  epoch       INT NOT NULL,
  accepted_ms BIGINT NOT NULL,
  created_ms  BIGINT NOT NULL,
  expires_ms  BIGINT NOT NULL,
  KEY orders_{yyyymm}_user (user_id, accepted_ms, order_id),
  KEY orders_{yyyymm}_due (state, expires_ms),
  CONSTRAINT orders_{yyyymm}_quantity CHECK (quantity > 0)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
