"""HARNESS. What is measured, one module each; the same for all systems."""
