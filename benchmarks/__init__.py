"""How fast walex-celery is, next to pg_recvlogical and to task.delay(): ``make bench``."""
