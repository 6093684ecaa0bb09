-- The words of states and reasons are known to programs alone, so that new ones need no new tables.
ALTER TABLE orders_{yyyymm}
  MODIFY state  VARCHAR(24) NOT NULL,
  MODIFY reason VARCHAR(24) NULL,
  COMMENT = 'shape 4'
