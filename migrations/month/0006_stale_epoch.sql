-- An order may be rejected because its record came when its bucket had been rebuilt without it.
ALTER TABLE orders_{yyyymm}
  MODIFY reason ENUM('limit','sold_out','given_up','stale_epoch') NULL,
  COMMENT = 'shape 6',
  ALGORITHM = INPLACE, LOCK = NONE
