"""The edge: provisions workers at a site. Each cycle observes, decides, acts."""
