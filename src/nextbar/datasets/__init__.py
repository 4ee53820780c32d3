"""Splits, labels, windows and scalers, each made from the rows that it may use."""
