"""CLI. `sidequest …`: one file per command; everything goes through `sq.jobs`, `sq.queues`, `sq.engines`, as an app would."""
