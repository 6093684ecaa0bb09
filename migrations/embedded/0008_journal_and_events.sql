-- The journal says who moved an order and why. NULL is the order writer, who says nothing.
ALTER TABLE order_moves ADD COLUMN mover TEXT;
ALTER TABLE order_moves ADD COLUMN why TEXT;

-- How many events there were.
CREATE TABLE event_logs (
  part        INTEGER NOT NULL PRIMARY KEY CHECK (part = 0),
  next_number INTEGER NOT NULL
) STRICT;
INSERT INTO event_logs (part, next_number) VALUES (0, 1);

-- Up to which order the steps from before there were events are told; NULL once all are. The program tells them when it
-- opens the folder.
CREATE TABLE retold_orders (upto TEXT) STRICT;
INSERT INTO retold_orders (upto) VALUES ('');

-- What every step of an order tells, one row for each batch: `events` steps as JSON, the first of which has the
-- number `first_number`. Numbers have no gaps.
CREATE TABLE order_events (
  first_number INTEGER NOT NULL PRIMARY KEY,
  events       INTEGER NOT NULL,
  at_ms        INTEGER NOT NULL,
  payload      BLOB    NOT NULL
) STRICT;

-- Which event each reader wants next.
CREATE TABLE event_readers (
  reader      TEXT    NOT NULL,
  part        INTEGER NOT NULL CHECK (part = 0),
  next_number INTEGER NOT NULL,
  PRIMARY KEY (reader, part)
) STRICT, WITHOUT ROWID;

-- What became of a dead letter: `open`, `retried` or `given_back`, and when an operator decided that.
ALTER TABLE dead_letters ADD COLUMN state TEXT NOT NULL DEFAULT 'open';
ALTER TABLE dead_letters ADD COLUMN decided_ms INTEGER;
CREATE INDEX dead_letters_state ON dead_letters (state, id);

-- What the events say of a sale, in sums. The words are those of the events.
CREATE TABLE view_counts (
  sale_id    TEXT    NOT NULL,
  part       INTEGER NOT NULL CHECK (part = 0),
  sku_id     TEXT    NOT NULL,
  minute     INTEGER NOT NULL,
  kind       TEXT    NOT NULL,
  from_state TEXT    NOT NULL,
  to_state   TEXT    NOT NULL,
  reason     TEXT    NOT NULL,
  currency   TEXT    NOT NULL,
  orders     INTEGER NOT NULL,
  units      INTEGER NOT NULL,
  amount     INTEGER NOT NULL,
  PRIMARY KEY (sale_id, part, sku_id, minute, kind, from_state, to_state, reason, currency)
) STRICT, WITHOUT ROWID;

-- Of which events the sums are: from the first to the last one of the sale.
CREATE TABLE view_marks (
  part         INTEGER NOT NULL CHECK (part = 0),
  sale_id      TEXT    NOT NULL,
  first_number INTEGER NOT NULL,
  last_number  INTEGER NOT NULL,
  events       INTEGER NOT NULL,
  PRIMARY KEY (part, sale_id)
) STRICT, WITHOUT ROWID;

-- The report of a sale as it was when it was settled, before any of its events go, with its view: its JSON, the SHA-256
-- of the view, and the last event that the view is built of. `cleared` says that nothing of the sale is left in the
-- inventory.
CREATE TABLE sale_seals (
  sale_id   TEXT    NOT NULL PRIMARY KEY,
  sealed_ms INTEGER NOT NULL,
  hash      TEXT    NOT NULL,
  numbers   TEXT    NOT NULL,
  report    TEXT    NOT NULL,
  cleared   INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX sale_seals_cleared ON sale_seals (cleared) WHERE cleared = 0;

-- The addresses to which events are sent. What is sent is signed with both secrets, so they are kept as they are.
CREATE TABLE subscriptions (
  id               TEXT    NOT NULL PRIMARY KEY,
  url              TEXT    NOT NULL,
  kinds            TEXT    NOT NULL,
  secret           TEXT    NOT NULL,
  previous_secret  TEXT,
  state            TEXT    NOT NULL,
  why              TEXT    NOT NULL DEFAULT '',
  created_ms       INTEGER NOT NULL,
  failing_since_ms INTEGER
) STRICT, WITHOUT ROWID;
