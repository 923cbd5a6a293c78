"""The pilot: runs jobs on a node, from acquire to report."""
