"""Settings: their model, where each comes from, and how they change while the producer runs."""
