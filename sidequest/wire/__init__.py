"""EVERY PROCESS. What crosses a process boundary: frames and messages, nothing else.

App ⇄ engine: JSON frames over the engine's stdin and stdout. Engine ⇄ worker: `struct` headers and
JSON text over a private socket. Nothing that crosses is ever unpickled.
"""
