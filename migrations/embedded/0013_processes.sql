-- Which process has had the folder since when: the first four bytes of its id. One at a time has it, so the time of a
-- step says which process took it.
CREATE TABLE processes (
  since_ms INTEGER NOT NULL,
  mark     BLOB    NOT NULL
) STRICT;
