"""One module a table, found by its name."""
