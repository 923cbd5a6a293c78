"""Batch systems, behind `harvester_edge.ports.Batch`."""
