-- The epochs of buckets that were rebuilt, and until when the process that rebuilds one has it.
CREATE TABLE bucket_epochs (
  sale_id  VARBINARY(32) NOT NULL,
  bucket   INT NOT NULL,
  epoch    INT NOT NULL,
  until_ms BIGINT NOT NULL,
  PRIMARY KEY (sale_id, bucket)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
