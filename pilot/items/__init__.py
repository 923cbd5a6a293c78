"""Jobs that carry items: many payloads in one job, each with its own slot, limits and end."""
