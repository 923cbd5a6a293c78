"""Plugins as a site would write its own, each in one file. Each implements a port of
`harvester_edge.ports` or `pilot.ports`, where what a method promises is said."""
