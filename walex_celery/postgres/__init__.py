"""All that speaks to Postgres; it knows nothing of Celery."""
