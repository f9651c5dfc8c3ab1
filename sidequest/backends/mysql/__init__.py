"""THE STORE, on MySQL and MariaDB."""
