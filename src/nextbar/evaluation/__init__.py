"""One fold, its baselines, and whether the result could be luck."""
