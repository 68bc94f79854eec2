"""The database: one small `Database` over SQLite and PostgreSQL, and the migrations that both engines share."""
