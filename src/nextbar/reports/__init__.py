"""Facts, figures, page: what people look at."""
