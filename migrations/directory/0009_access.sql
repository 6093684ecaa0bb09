-- What a purchase in a sale needs beside its buyer: a purchase token, and for that a proof of work of so many zeros.
ALTER TABLE sales
  ADD COLUMN purchase_token BOOLEAN NOT NULL DEFAULT FALSE,
  ADD COLUMN proof_of_work INT NOT NULL DEFAULT 0;
