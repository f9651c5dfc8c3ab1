"""APP PROCESS. What a web app or script holds: the client, its operations, the engine process's keeper."""
