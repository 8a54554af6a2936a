"""A small shop whose emails, search index, cache and totals follow its database."""
