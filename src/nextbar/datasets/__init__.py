"""Splits, labels, windows and scalers: what a model may see, and when."""
