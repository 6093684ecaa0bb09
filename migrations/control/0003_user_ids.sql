-- User ids have up to 255 bytes.
ALTER TABLE release_outbox
  MODIFY user_id VARBINARY(255) NOT NULL,
  ALGORITHM = INPLACE, LOCK = NONE;
