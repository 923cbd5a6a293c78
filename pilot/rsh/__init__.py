"""The remote shell of payloads: `pilot-rsh`, its doors on the nodes, and the exchange between them."""
