"""PEER. What each system needs to run our jobs and to enqueue them: nothing here imports anything but that system."""
