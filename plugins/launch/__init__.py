"""Launchers: how the processes of a job are started, on one node or many."""
