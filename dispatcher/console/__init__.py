"""The pages that people look at; they know only the public API."""
