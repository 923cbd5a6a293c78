"""How files are moved: one file a family of URL schemes."""
