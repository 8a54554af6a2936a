"""What tests, the demo and users need to run walex-celery for real: servers and fixtures."""
