"""How a task's message is made: from a template captured from Celery where that is proved equal, else by Celery."""
