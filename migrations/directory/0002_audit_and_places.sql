-- Changes that are no sale's have no sale, and say in `details` (JSON) what was changed.
ALTER TABLE audit_log
  MODIFY sale_id    VARBINARY(32) NULL,
  MODIFY sale_after TEXT NULL,
  ADD COLUMN details TEXT NULL;

-- Whether every bucket of the epoch was put in place. Before that nothing of it is sold; afterwards nothing is put in
-- place a second time.
ALTER TABLE epochs ADD COLUMN in_place BOOLEAN NOT NULL DEFAULT FALSE;
UPDATE epochs SET in_place = TRUE
  WHERE sale_id IN (SELECT sale_id FROM sales WHERE state NOT IN ('draft', 'published'));
