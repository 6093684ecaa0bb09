-- A shop's own name for an order, at most 64 characters.
ALTER TABLE orders ADD COLUMN reference TEXT;
ALTER TABLE reservations ADD COLUMN reference TEXT;
