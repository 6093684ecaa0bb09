-- A position belongs to one log: the topic's id, zeros before anything was written. `halt` says why the partition
-- stands still until an operator moves its position: '' (it does not), 'other_log' or 'out_of_range'.
ALTER TABLE consumer_positions
  ADD COLUMN log_id BINARY(16) NOT NULL DEFAULT '',
  ADD COLUMN halt   VARCHAR(16) NOT NULL DEFAULT '';

-- Another log has other records at the same offsets. `order_id` is there when the record names an order: its buyer is
-- told that a person has to act.
ALTER TABLE dead_letters
  ADD COLUMN log_id   BINARY(16) NOT NULL DEFAULT '',
  ADD COLUMN order_id BINARY(16),
  ADD KEY dead_letters_order (order_id),
  DROP KEY dead_letters_place,
  ADD UNIQUE KEY dead_letters_place (topic, part, log_offset, log_id);

-- Units may also come from a ledger that does not hold them.
ALTER TABLE grants ADD COLUMN from_ledger BOOLEAN NOT NULL DEFAULT FALSE;
