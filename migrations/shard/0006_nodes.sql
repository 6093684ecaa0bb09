-- The process that took the step, or did what the row says: the first four bytes of its id. NULL in rows of older
-- versions, and of what was done elsewhere.
ALTER TABLE order_moves
  ADD COLUMN node BINARY(4) NULL,
  ALGORITHM = INPLACE, LOCK = NONE;
ALTER TABLE payments
  ADD COLUMN node BINARY(4) NULL,
  ALGORITHM = INPLACE, LOCK = NONE;
ALTER TABLE refunds
  ADD COLUMN node BINARY(4) NULL,
  ALGORITHM = INPLACE, LOCK = NONE;
ALTER TABLE payment_events
  ADD COLUMN node BINARY(4) NULL,
  ALGORITHM = INPLACE, LOCK = NONE;
