"""The result of a run: its document, its rows and the files that hold them."""
