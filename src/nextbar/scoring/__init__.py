"""Metrics and backtest: arrays in, numbers out."""
