"""What an operator uses."""
