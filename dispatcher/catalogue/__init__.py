"""The catalogue of data, in a process of its own: it may hang or crash, and costs the dispatcher
nothing."""
