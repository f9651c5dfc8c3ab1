"""CLI. `python -m sidequest` is the command `sidequest`."""

from __future__ import annotations

import sys

from sidequest.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
