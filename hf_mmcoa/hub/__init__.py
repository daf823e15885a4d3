"""Publication of a checkpoint on the Hub: its files, the measurements on its weights, its card and the push."""
