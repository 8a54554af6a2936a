"""How operators watch a producer: status, metrics, health, Flower."""
