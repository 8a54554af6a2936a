"""What the pipeline reports about itself."""
