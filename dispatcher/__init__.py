"""Holds the queue: what waits, who runs it, what came of it."""
