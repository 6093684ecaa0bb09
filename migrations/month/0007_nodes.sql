-- The processes that accepted the order and that wrote its row: the first four bytes of the id of each, zeros for one
-- that is not known. NULL in rows of older versions, and of orders that came from another backend.
ALTER TABLE orders_{yyyymm}
  ADD COLUMN nodes BINARY(8) NULL,
  COMMENT = 'shape 7',
  ALGORITHM = INPLACE, LOCK = NONE
