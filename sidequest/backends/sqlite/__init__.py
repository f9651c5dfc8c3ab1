"""THE STORE, on SQLite."""
