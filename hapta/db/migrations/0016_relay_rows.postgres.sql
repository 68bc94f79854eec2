-- Only SQLite keeps the rows of a table in the order of its key; see the file beside this one.
SELECT 1;
