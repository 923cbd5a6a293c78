"""The remote shell of payloads: `pilot-rsh`, its doors on nodes, the exchange between them."""
