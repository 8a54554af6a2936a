"""What the pipeline reads from."""
