"""Allocations: which nodes a batch system gave to a job, and how an agent is started on each."""
