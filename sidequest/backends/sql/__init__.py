"""THE STORE, in SQL: what is the same in every dialect, once."""
