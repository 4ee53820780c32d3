"""Where bars come from: one module per source, each with a function that returns SourceBars."""
