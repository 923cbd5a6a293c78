"""What `scripts/bench` measures: ours beside the bare loop or server that does the same with
nothing around it, in turn and in one run. Absolute figures are the machine's; targets are
ratios."""
