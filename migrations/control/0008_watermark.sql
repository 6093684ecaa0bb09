-- One row: the server that the instance's data were written on, and a number that grows while the shop runs. A server
-- of another name, or a smaller number than the shop has seen, says that the data are older than they were.
CREATE TABLE watermark (
  one    TINYINT NOT NULL PRIMARY KEY,
  server VARBINARY(64) NOT NULL,
  mark   BIGINT NOT NULL,
  at_ms  BIGINT NOT NULL
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The instance that gave the units, which may have lost its own row of the grant. NULL in rows from before.
ALTER TABLE grants ADD COLUMN giver INT NULL;
