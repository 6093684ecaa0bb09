-- User ids of identity providers have up to 255 bytes. Source: OpenID Connect Core §2, `sub`.
ALTER TABLE orders_{yyyymm}
  MODIFY user_id VARBINARY(255) NOT NULL,
  COMMENT = 'shape 2',
  ALGORITHM = INPLACE, LOCK = NONE
