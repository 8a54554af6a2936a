"""What the database has, what handlers and subscriptions require of it, and the SQL that closes the gap.

The producer logs what is found here, ``doctor`` prints it, and ``setup`` runs the SQL: they never disagree.
"""
