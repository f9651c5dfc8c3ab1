"""THE STORE, on PostgreSQL."""
