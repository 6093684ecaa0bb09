-- Most orders of a sale that one buyer may let expire or give up, before the buyer is refused; 0 for no limit.
ALTER TABLE sales ADD COLUMN unpaid_max INT NOT NULL DEFAULT 3;
