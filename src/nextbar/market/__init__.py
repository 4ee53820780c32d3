"""The database of daily bars: reading, judging and storing them."""
