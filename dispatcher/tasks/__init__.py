"""Tasks: steps over items. `advance` is a function of the tables, and may run any number of times.

`standing` says what a step may do, `advance` does it, a slice a commit; `records` are the rows.
"""
