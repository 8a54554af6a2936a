"""Waiting between tries."""
