"""From a probability to a position."""
