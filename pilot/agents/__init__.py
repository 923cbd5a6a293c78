"""Many nodes: an agent on each, its link to the pilot, and the pilot that has them all."""
