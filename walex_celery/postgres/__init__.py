"""Everything that speaks to Postgres. It knows nothing of Celery, of handlers, or of the application's settings."""
