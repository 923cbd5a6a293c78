"""Programs that say which points of a search come next: a question on their standard input, an
answer on their standard output. The dispatcher starts them; it imports none."""
