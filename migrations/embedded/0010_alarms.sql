-- Alarms that stand: since when, when they were seen last, and when somebody was called.
CREATE TABLE alarms (
  name      TEXT    NOT NULL,
  labels    TEXT    NOT NULL,
  since_ms  INTEGER NOT NULL,
  seen_ms   INTEGER NOT NULL,
  value     INTEGER NOT NULL,
  called_ms INTEGER,
  calls     INTEGER NOT NULL DEFAULT 0,
  tries     INTEGER NOT NULL DEFAULT 0,
  next_ms   INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (name, labels)
) STRICT, WITHOUT ROWID;
