"""What the programs say to each other: data and pure functions, no I/O and no clock."""
