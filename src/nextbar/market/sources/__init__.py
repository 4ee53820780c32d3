"""Sources of bars: one module each, with a function that returns SourceBars."""
