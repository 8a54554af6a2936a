"""What the user registered, which of it a table's events reach, and what happens when it fails."""
