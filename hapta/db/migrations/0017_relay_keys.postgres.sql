-- The keys of SQLite's indexes alone; see the file beside this one.
SELECT 1;
