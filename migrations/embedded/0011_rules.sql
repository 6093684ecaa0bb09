-- The rules of traffic, each as its document, and the version of them all, which grows with every change.
CREATE TABLE rules (
  rule_id TEXT    NOT NULL PRIMARY KEY,
  terms   TEXT    NOT NULL,
  version INTEGER NOT NULL
);

CREATE TABLE rule_version (version INTEGER NOT NULL);

INSERT INTO rule_version (version) VALUES (0);
