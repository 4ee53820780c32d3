"""The three kinds of model behind one small protocol."""
