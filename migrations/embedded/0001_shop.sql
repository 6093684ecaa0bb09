-- The whole shop in one file: what the directory, control and shard databases and Redis are in the distributed
-- mode. Ids are texts whose order is that of their bytes; times are ms since 1970.

CREATE TABLE settings (
  name  TEXT NOT NULL PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- `definition` is the sale as JSON; the columns beside it are those that a condition needs.
CREATE TABLE sales (
  sale_id    TEXT    NOT NULL PRIMARY KEY,
  starts_ms  INTEGER NOT NULL,
  version    INTEGER NOT NULL,
  definition TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

-- Keys are 256 random bits, so one SHA-256 is enough; the key itself is shown once and never stored.
CREATE TABLE api_keys (
  key_hash   BLOB    NOT NULL PRIMARY KEY,
  name       TEXT    NOT NULL,
  scopes     TEXT    NOT NULL,
  created_ms INTEGER NOT NULL,
  revoked_ms INTEGER
) STRICT, WITHOUT ROWID;

-- One row per change, written in the change's own transaction.
CREATE TABLE audit_log (
  id         INTEGER PRIMARY KEY,
  at_ms      INTEGER NOT NULL,
  actor      TEXT    NOT NULL,
  action     TEXT    NOT NULL,
  sale_id    TEXT    NOT NULL,
  reason     TEXT    NOT NULL,
  request_id TEXT    NOT NULL,
  sale_after TEXT    NOT NULL
) STRICT;
CREATE INDEX audit_log_sale ON audit_log (sale_id, id);

-- The inventory: gate, stock, buyers and reservations of every bucket.
CREATE TABLE gates (
  sale_id     TEXT    NOT NULL,
  bucket      INTEGER NOT NULL,
  epoch       INTEGER NOT NULL,
  state       TEXT    NOT NULL CHECK (state IN ('open', 'paused', 'ended')),
  -- Version of the sale that set the state last; NULL since it was put in place.
  version     INTEGER,
  opens_ms    INTEGER NOT NULL,
  closes_ms   INTEGER NOT NULL,
  buyer_limit INTEGER NOT NULL,
  -- Orders ever reserved here.
  orders_made INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (sale_id, bucket)
) STRICT, WITHOUT ROWID;

CREATE TABLE stock (
  sale_id   TEXT    NOT NULL,
  bucket    INTEGER NOT NULL,
  sku_id    TEXT    NOT NULL,
  available INTEGER NOT NULL CHECK (available >= 0),
  PRIMARY KEY (sale_id, bucket, sku_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE buyers (
  sale_id TEXT    NOT NULL,
  bucket  INTEGER NOT NULL,
  user_id TEXT    NOT NULL,
  units   INTEGER NOT NULL CHECK (units >= 0),
  PRIMARY KEY (sale_id, bucket, user_id)
) STRICT, WITHOUT ROWID;

-- Never changed: what became of a reservation is its row in `orders`.
CREATE TABLE reservations (
  order_id    TEXT    NOT NULL PRIMARY KEY,
  sale_id     TEXT    NOT NULL,
  bucket      INTEGER NOT NULL,
  sku_id      TEXT    NOT NULL,
  user_id     TEXT    NOT NULL,
  quantity    INTEGER NOT NULL CHECK (quantity > 0),
  fingerprint TEXT    NOT NULL,
  reserved_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Written in the reservation's own transaction.
CREATE TABLE order_log (
  part       INTEGER NOT NULL,
  log_offset INTEGER NOT NULL,
  payload    BLOB    NOT NULL,
  PRIMARY KEY (part, log_offset)
) STRICT, WITHOUT ROWID;

CREATE TABLE consumer_positions (
  part        INTEGER NOT NULL PRIMARY KEY,
  next_offset INTEGER NOT NULL
) STRICT;

-- I1 rests on its condition.
CREATE TABLE ledger (
  sale_id TEXT    NOT NULL,
  sku_id  TEXT    NOT NULL,
  stock   INTEGER NOT NULL,
  held    INTEGER NOT NULL DEFAULT 0,
  sold    INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (sale_id, sku_id),
  CONSTRAINT ledger_not_oversold CHECK (0 <= held AND 0 <= sold AND held + sold <= stock)
) STRICT, WITHOUT ROWID;

CREATE TABLE orders (
  order_id    TEXT    NOT NULL PRIMARY KEY,
  month       INTEGER NOT NULL,
  sale_id     TEXT    NOT NULL,
  sku_id      TEXT    NOT NULL,
  user_id     TEXT    NOT NULL,
  quantity    INTEGER NOT NULL CHECK (quantity > 0),
  unit_price  INTEGER NOT NULL,
  currency    TEXT    NOT NULL,
  state       TEXT    NOT NULL
    CHECK (state IN ('awaiting_payment', 'paid', 'cancelled', 'expired', 'rejected')),
  reason      TEXT    CHECK (reason IN ('limit', 'sold_out')),
  epoch       INTEGER NOT NULL,
  accepted_ms INTEGER NOT NULL,
  created_ms  INTEGER NOT NULL,
  expires_ms  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX orders_user ON orders (user_id, month, accepted_ms, order_id);
CREATE INDEX orders_due ON orders (state, expires_ms);

-- One row per live unit of a buyer: the primary key is the buyer limit (I5).
CREATE TABLE claims (
  sale_id  TEXT    NOT NULL,
  user_id  TEXT    NOT NULL,
  unit     INTEGER NOT NULL,
  order_id TEXT    NOT NULL,
  PRIMARY KEY (sale_id, user_id, unit)
) STRICT, WITHOUT ROWID;

-- Append-only journal of what happened to each order.
CREATE TABLE order_moves (
  order_id TEXT    NOT NULL,
  kind     TEXT    NOT NULL CHECK (kind IN ('persisted', 'rejected', 'paid', 'cancelled', 'expired')),
  at_ms    INTEGER NOT NULL,
  PRIMARY KEY (order_id, kind)
) STRICT, WITHOUT ROWID;

-- Units owed to the inventory. A row may stand twice; releasing is idempotent.
CREATE TABLE release_outbox (
  id       INTEGER PRIMARY KEY,
  order_id TEXT    NOT NULL,
  sale_id  TEXT    NOT NULL,
  sku_id   TEXT    NOT NULL,
  user_id  TEXT    NOT NULL,
  quantity INTEGER NOT NULL,
  at_ms    INTEGER NOT NULL
) STRICT;

CREATE TABLE dead_letters (
  id         INTEGER PRIMARY KEY,
  part       INTEGER NOT NULL,
  log_offset INTEGER NOT NULL,
  reason     TEXT    NOT NULL,
  payload    BLOB    NOT NULL,
  at_ms      INTEGER NOT NULL,
  CONSTRAINT dead_letters_place UNIQUE (part, log_offset)
) STRICT;
