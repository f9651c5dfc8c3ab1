"""THE STORE, on MongoDB."""
