"""One module per table, found by its name."""
