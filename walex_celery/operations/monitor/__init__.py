"""What an operator sees of a producer: status, metrics, health, Flower."""
