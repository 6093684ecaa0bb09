-- A shop's own name for an order, at most 64 characters of UTF-8.
ALTER TABLE orders_{yyyymm}
  ADD COLUMN reference VARBINARY(256) NULL,
  COMMENT = 'shape 5',
  ALGORITHM = INPLACE, LOCK = NONE
