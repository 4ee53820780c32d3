"""Indicators and the recipe of a feature matrix."""
