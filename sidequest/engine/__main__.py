"""ENGINE PROCESS. `python -m sidequest.engine EVENT_LOOP`: how it begins.

What workers are forked from is started before anything else, so that it imports while this process
does: hence the import in `main`, and nothing above it that is not needed for that.
"""

from __future__ import annotations

import gc
import os
import sys

from sidequest.engine import forkserver


def main() -> None:
    gc.disable()  # nothing of what is imported is garbage; to look for some takes a tenth of the time until READY
    orders_in = os.fdopen(os.dup(0), "rb", buffering=0)
    events_out = os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    event_loop = sys.argv.pop()  # it is needed before the orders are there, and workers get what is left
    forkserver.begin(event_loop)
    from sidequest.engine import app_pipe  # noqa: PLC0415 - takes longer than all that is above

    app_pipe.run(orders_in, events_out, event_loop)


if __name__ == "__main__":
    main()
