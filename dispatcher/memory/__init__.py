"""What no store keeps: leases, who waits, bad nodes."""
