"""The edge of a site whose jobs are a PanDA server's: it says and hears what a Harvester instance
does."""
