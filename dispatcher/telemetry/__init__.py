"""What operators' own systems collect: metrics and traces."""
