"""What the pipeline reports of itself."""
