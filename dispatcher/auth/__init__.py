"""Who a caller is, and what a token allows."""
