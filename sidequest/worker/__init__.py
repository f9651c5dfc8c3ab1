"""WORKER PROCESS. Runs jobs; knows jobs and messages, never the store."""
