-- The process that took the step: the first four bytes of its id. NULL in rows of older versions, and of steps taken
-- elsewhere.
ALTER TABLE order_moves
  ADD COLUMN node BINARY(4) NULL,
  ALGORITHM = INPLACE, LOCK = NONE;
