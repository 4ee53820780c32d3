"""Use cases, each from configuration to files."""
