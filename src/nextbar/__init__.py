"""nextbar: models of a stock's next daily bar, trained without seeing the future and scored honestly."""

__version__ = "0.1.0"
