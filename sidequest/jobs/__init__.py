"""PURE CENTRE. What a job is and how it moves: no I/O, no clock, no event loop."""
