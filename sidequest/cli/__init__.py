"""CLI. `sidequest …`: one file per command; everything goes through `sq.jobs` and `sq.queues`, as an app would."""
