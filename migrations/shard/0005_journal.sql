-- The journal says who moved an order and why. NULL is the order writer, who says nothing.
ALTER TABLE order_moves
  ADD COLUMN mover VARCHAR(80) NULL,
  ADD COLUMN why   VARCHAR(200) NULL;
