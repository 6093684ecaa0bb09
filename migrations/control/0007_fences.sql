-- From which epoch on the orders of a bucket are written that was rebuilt, for each partition that has orders of it.
CREATE TABLE fences (
  part    INT NOT NULL,
  sale_id VARBINARY(32) NOT NULL,
  bucket  INT NOT NULL,
  epoch   INT NOT NULL,
  PRIMARY KEY (part, sale_id, bucket)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- How often one was set. A batch that does not know of the last one is not written.
ALTER TABLE consumer_positions ADD COLUMN fences INT NOT NULL DEFAULT 0;
