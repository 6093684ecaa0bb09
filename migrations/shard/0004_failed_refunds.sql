-- Refunds that have failed are counted every few seconds.
ALTER TABLE refunds
  ADD KEY refunds_state (state),
  ALGORITHM = INPLACE, LOCK = NONE
