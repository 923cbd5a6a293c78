"""How programs talk: the one HTTP client."""
