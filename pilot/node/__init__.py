"""One node: what it has, who may use it, and who watches its payloads."""
