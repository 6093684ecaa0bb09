-- Units of refunded orders that nobody may buy until an operator brings them back. I1 rests on the condition.
ALTER TABLE ledger
  ADD COLUMN withheld BIGINT NOT NULL DEFAULT 0,
  DROP CONSTRAINT ledger_not_oversold,
  ADD CONSTRAINT ledger_units CHECK (0 <= held AND 0 <= sold AND 0 <= withheld AND held + sold + withheld <= allotted);
