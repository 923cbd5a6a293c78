"""Processes: how payloads are started, counted and ended."""
