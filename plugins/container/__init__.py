"""How payloads are kept apart: one file a container runtime."""
