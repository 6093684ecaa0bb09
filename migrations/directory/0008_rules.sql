-- The rules of traffic, each as its document, and the version of them all, which grows with every change.
CREATE TABLE rules (
  rule_id VARBINARY(64) NOT NULL PRIMARY KEY,
  terms   TEXT NOT NULL,
  version BIGINT NOT NULL
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE rule_version (
  one     BOOLEAN NOT NULL PRIMARY KEY DEFAULT TRUE,
  version BIGINT NOT NULL
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

INSERT INTO rule_version (version) VALUES (0);
