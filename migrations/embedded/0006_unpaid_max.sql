-- How many orders a buyer has let expire or given up, and how many are allowed; 0 for no limit, as in gates that stand.
ALTER TABLE buyers ADD COLUMN unpaid INTEGER NOT NULL DEFAULT 0;
ALTER TABLE gates ADD COLUMN unpaid_max INTEGER NOT NULL DEFAULT 0;
