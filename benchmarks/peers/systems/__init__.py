"""HARNESS. What there is to know about each system: what to install, how its authors let workers run, where jobs lie."""
