-- The journal says from which state to which, who moved the order and why. The words of steps and states are known to
-- programs alone, so that new ones need no new tables. A step without states is from before; `seckill migrate` adds
-- them, and tells the step.
ALTER TABLE order_moves
  MODIFY kind VARCHAR(24) NOT NULL,
  ADD COLUMN from_state VARCHAR(24) NOT NULL DEFAULT '',
  ADD COLUMN to_state   VARCHAR(24) NOT NULL DEFAULT '',
  ADD COLUMN mover      VARCHAR(80) NOT NULL DEFAULT '',
  ADD COLUMN why        VARCHAR(200) NULL;
