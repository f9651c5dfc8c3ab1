"""ENGINE PROCESS. Claims jobs and hands them to workers; never runs, imports or parses user code."""
