-- An order that was paid may be paid back.
ALTER TABLE orders_{yyyymm}
  MODIFY state ENUM('awaiting_payment','paid','cancelled','expired','rejected','refunded') NOT NULL,
  COMMENT = 'shape 3',
  ALGORITHM = INPLACE, LOCK = NONE
