-- A shard: the orders of the users that hash to it. The monthly orders tables are made by `seckill migrate`
-- from src/backend/distributed/queries/create_orders_month.sql.

-- One row per live unit of a buyer: the primary key is the buyer limit (I5).
CREATE TABLE claims (
  sale_id  VARBINARY(32) NOT NULL,
  user_id  VARBINARY(64) NOT NULL,
  unit     INT NOT NULL,
  order_id BINARY(16) NOT NULL,
  PRIMARY KEY (sale_id, user_id, unit)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Append-only journal of what happened to each order.
CREATE TABLE order_moves (
  order_id BINARY(16) NOT NULL,
  kind     ENUM('persisted','rejected','paid','cancelled','expired') NOT NULL,
  at_ms    BIGINT NOT NULL,
  PRIMARY KEY (order_id, kind)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
