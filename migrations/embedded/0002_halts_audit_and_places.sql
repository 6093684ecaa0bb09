-- Why the partition stands still until an operator moves its position: '' (it does not) or 'out_of_range'.
ALTER TABLE consumer_positions ADD COLUMN halt TEXT NOT NULL DEFAULT '';

-- The order that a dead letter names, if it names one: its buyer is told that a person has to act.
ALTER TABLE dead_letters ADD COLUMN order_id TEXT;
CREATE INDEX dead_letters_order ON dead_letters (order_id) WHERE order_id IS NOT NULL;

-- Changes that are no sale's have no sale, and say in `details` (JSON) what was changed.
CREATE TABLE audit_log_new (
  id         INTEGER PRIMARY KEY,
  at_ms      INTEGER NOT NULL,
  actor      TEXT    NOT NULL,
  action     TEXT    NOT NULL,
  sale_id    TEXT,
  reason     TEXT    NOT NULL,
  request_id TEXT    NOT NULL,
  sale_after TEXT,
  details    TEXT
) STRICT;
INSERT INTO audit_log_new (id, at_ms, actor, action, sale_id, reason, request_id, sale_after)
  SELECT id, at_ms, actor, action, sale_id, reason, request_id, sale_after FROM audit_log;
DROP TABLE audit_log;
ALTER TABLE audit_log_new RENAME TO audit_log;
CREATE INDEX audit_log_sale ON audit_log (sale_id, id);

-- Whether every bucket of the epoch was put in place.
UPDATE sales SET definition = json_set(definition, '$.in_place', json('true'))
  WHERE definition ->> '$.state' NOT IN ('draft', 'published');

-- A gate is `placing` from the preheat until every bucket of its sale is in place.
CREATE TABLE gates_new (
  sale_id     TEXT    NOT NULL,
  bucket      INTEGER NOT NULL,
  epoch       INTEGER NOT NULL,
  state       TEXT    NOT NULL CHECK (state IN ('placing', 'open', 'paused', 'ended')),
  -- Version of the sale that set the state last; NULL since it was put in place.
  version     INTEGER,
  opens_ms    INTEGER NOT NULL,
  closes_ms   INTEGER NOT NULL,
  buyer_limit INTEGER NOT NULL,
  -- Orders ever reserved here.
  orders_made INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (sale_id, bucket)
) STRICT, WITHOUT ROWID;
INSERT INTO gates_new SELECT sale_id, bucket, epoch, state, version, opens_ms, closes_ms, buyer_limit, orders_made
  FROM gates;
DROP TABLE gates;
ALTER TABLE gates_new RENAME TO gates;
