-- Alarms that stand: since when, when a process saw them last, and when somebody was called.
CREATE TABLE alarms (
  name      VARCHAR(64) NOT NULL,
  labels    VARCHAR(255) NOT NULL,
  since_ms  BIGINT NOT NULL,
  seen_ms   BIGINT NOT NULL,
  value     BIGINT NOT NULL,
  called_ms BIGINT NULL,
  calls     INT NOT NULL DEFAULT 0,
  tries     INT NOT NULL DEFAULT 0,
  next_ms   BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (name, labels)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
