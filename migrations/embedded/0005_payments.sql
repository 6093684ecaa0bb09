-- Orders and moves can have new words: a list of words in a CHECK could only be changed by copying the table, so the
-- program alone knows them from here on. A pending order has no row.
CREATE TABLE orders_new (
  order_id    TEXT    NOT NULL PRIMARY KEY,
  month       INTEGER NOT NULL,
  sale_id     TEXT    NOT NULL,
  sku_id      TEXT    NOT NULL,
  user_id     TEXT    NOT NULL,
  quantity    INTEGER NOT NULL CHECK (quantity > 0),
  unit_price  INTEGER NOT NULL,
  currency    TEXT    NOT NULL,
  state       TEXT    NOT NULL CHECK (state NOT IN ('reserved', 'queued')),
  reason      TEXT,
  epoch       INTEGER NOT NULL,
  accepted_ms INTEGER NOT NULL,
  created_ms  INTEGER NOT NULL,
  expires_ms  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO orders_new SELECT order_id, month, sale_id, sku_id, user_id, quantity, unit_price, currency, state, reason,
  epoch, accepted_ms, created_ms, expires_ms FROM orders;
DROP TABLE orders;
ALTER TABLE orders_new RENAME TO orders;
CREATE INDEX orders_user ON orders (user_id, month, accepted_ms, order_id);
CREATE INDEX orders_due ON orders (state, expires_ms);

CREATE TABLE order_moves_new (
  order_id TEXT    NOT NULL,
  kind     TEXT    NOT NULL,
  at_ms    INTEGER NOT NULL,
  PRIMARY KEY (order_id, kind)
) STRICT, WITHOUT ROWID;
INSERT INTO order_moves_new SELECT order_id, kind, at_ms FROM order_moves;
DROP TABLE order_moves;
ALTER TABLE order_moves_new RENAME TO order_moves;

-- Units of refunded orders that nobody may buy until an operator brings them back. I1 rests on the condition.
CREATE TABLE ledger_new (
  sale_id  TEXT    NOT NULL,
  sku_id   TEXT    NOT NULL,
  stock    INTEGER NOT NULL,
  held     INTEGER NOT NULL DEFAULT 0,
  sold     INTEGER NOT NULL DEFAULT 0,
  withheld INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (sale_id, sku_id),
  CONSTRAINT ledger_units CHECK (0 <= held AND 0 <= sold AND 0 <= withheld AND held + sold + withheld <= stock)
) STRICT, WITHOUT ROWID;
INSERT INTO ledger_new (sale_id, sku_id, stock, held, sold) SELECT sale_id, sku_id, stock, held, sold FROM ledger;
DROP TABLE ledger;
ALTER TABLE ledger_new RENAME TO ledger;

-- One row per attempt to pay an order. The request is kept as it was first sent (JSON), because a provider refuses
-- another one under the same key. `ask_ms` is when the provider is asked next what became of it; it is NULL once the
-- provider has given its final answer.
CREATE TABLE payments (
  order_id   TEXT    NOT NULL,
  attempt    INTEGER NOT NULL,
  state      TEXT    NOT NULL,
  request    TEXT    NOT NULL,
  reference  TEXT,
  url        TEXT,
  capture    TEXT,
  created_ms INTEGER NOT NULL,
  closing_ms INTEGER,
  ask_ms     INTEGER,
  asks       INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (order_id, attempt)
) STRICT, WITHOUT ROWID;
CREATE INDEX payments_ask ON payments (ask_ms) WHERE ask_ms IS NOT NULL;

-- Captures that are paid back. `next_ms` is when the provider is asked next; it is NULL once there is nothing to ask.
CREATE TABLE refunds (
  order_id   TEXT    NOT NULL,
  attempt    INTEGER NOT NULL,
  amount     INTEGER NOT NULL,
  currency   TEXT    NOT NULL,
  capture    TEXT    NOT NULL,
  reason     TEXT    NOT NULL,
  state      TEXT    NOT NULL,
  created_ms INTEGER NOT NULL,
  tries      INTEGER NOT NULL DEFAULT 0,
  next_ms    INTEGER,
  PRIMARY KEY (order_id, attempt)
) STRICT, WITHOUT ROWID;
CREATE INDEX refunds_next ON refunds (next_ms) WHERE next_ms IS NOT NULL;

-- The provider's events that were taken, and what came of them. The primary key takes each of them once.
CREATE TABLE payment_events (
  event_id TEXT    NOT NULL PRIMARY KEY,
  order_id TEXT    NOT NULL,
  attempt  INTEGER NOT NULL,
  outcome  TEXT    NOT NULL,
  at_ms    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Captures of ours that no payment row explains: they are tried again for a while, and then paid back.
CREATE TABLE orphan_captures (
  capture    TEXT    NOT NULL PRIMARY KEY,
  payment    TEXT    NOT NULL,
  amount     INTEGER NOT NULL,
  currency   TEXT    NOT NULL,
  state      TEXT    NOT NULL,
  created_ms INTEGER NOT NULL,
  tries      INTEGER NOT NULL DEFAULT 0,
  next_ms    INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX orphan_captures_next ON orphan_captures (next_ms) WHERE next_ms IS NOT NULL;
