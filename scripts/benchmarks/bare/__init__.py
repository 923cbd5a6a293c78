"""The bare peers: each does what ours does, durably where ours is durable, with nothing around
it."""
