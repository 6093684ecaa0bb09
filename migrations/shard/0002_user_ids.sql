-- User ids have up to 255 bytes. The monthly orders tables, which get them too, are made from migrations/month.
ALTER TABLE claims
  MODIFY user_id VARBINARY(255) NOT NULL,
  ALGORITHM = INPLACE, LOCK = NONE;
