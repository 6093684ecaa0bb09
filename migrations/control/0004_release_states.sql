-- The inventory marks an order whose units come back with its state. Before, only rejected orders were owed.
ALTER TABLE release_outbox ADD COLUMN state VARCHAR(16) NOT NULL DEFAULT 'rejected';
