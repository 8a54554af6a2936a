"""Events: what changed, as handlers and tasks get it, and its wire format (docs/architecture.md)."""
