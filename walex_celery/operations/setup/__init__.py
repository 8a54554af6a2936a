"""``walex setup``: what the database needs, and the SQL that provides it."""
