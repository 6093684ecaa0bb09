-- The directory: what operators decide. One database, on the first instance.
CREATE TABLE settings (
  name  VARCHAR(64) NOT NULL PRIMARY KEY,
  value VARCHAR(255) NOT NULL
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE sales (
  sale_id           VARBINARY(32) NOT NULL PRIMARY KEY,
  name              VARCHAR(120) NOT NULL,
  state             ENUM('draft','published','preheated','paused','ended') NOT NULL,
  starts_ms         BIGINT NOT NULL,
  ends_ms           BIGINT NOT NULL,
  buyer_limit       INT NOT NULL,
  payment_window_ms BIGINT NOT NULL,
  buckets           INT NOT NULL,
  version           BIGINT NOT NULL,
  created_at        DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
  KEY sales_starts (starts_ms)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE items (
  sale_id     VARBINARY(32) NOT NULL,
  sku_id      VARBINARY(32) NOT NULL,
  name        VARCHAR(120) NOT NULL,
  stock       INT NOT NULL,
  unit_price  BIGINT NOT NULL,
  currency    CHAR(3) NOT NULL,
  PRIMARY KEY (sale_id, sku_id),
  CONSTRAINT items_stock_positive CHECK (stock > 0)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- One epoch per sale; grows with every rebuild of its Redis state.
CREATE TABLE epochs (
  sale_id VARBINARY(32) NOT NULL PRIMARY KEY,
  epoch   INT NOT NULL
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Keys are 256 random bits, so one SHA-256 is enough; the key itself is shown once and never stored.
CREATE TABLE api_keys (
  key_hash   BINARY(32) NOT NULL PRIMARY KEY,
  name       VARCHAR(64) NOT NULL,
  scopes     VARCHAR(255) NOT NULL,
  created_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
  revoked_at DATETIME(3) NULL
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- One row per change, written in the change's own transaction.
CREATE TABLE audit_log (
  id           BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  at           DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
  actor        VARCHAR(64) NOT NULL,
  action       VARCHAR(32) NOT NULL,
  sale_id      VARBINARY(32) NOT NULL,
  reason       VARCHAR(200) NOT NULL,
  request_id   VARCHAR(64) NOT NULL,
  sale_after   TEXT NOT NULL,
  KEY audit_log_sale (sale_id, id)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
