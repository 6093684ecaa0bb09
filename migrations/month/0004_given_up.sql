-- An order may be rejected because its record was a dead letter that an operator gave back.
ALTER TABLE orders_{yyyymm}
  MODIFY reason ENUM('limit','sold_out','given_up') NULL,
  COMMENT = 'shape 4',
  ALGORITHM = INPLACE, LOCK = NONE
