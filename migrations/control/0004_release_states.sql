-- The inventory marks an order whose units come back with its state (before, only rejected orders were owed), leaves
-- its buyer what the buyer holds in other orders, and puts the units back on sale, or does not.
ALTER TABLE release_outbox
  ADD COLUMN state       VARCHAR(16) NOT NULL DEFAULT 'rejected',
  ADD COLUMN buyer_keeps INT NOT NULL DEFAULT 0,
  ADD COLUMN restock     BOOLEAN NOT NULL DEFAULT TRUE;
