"""Steps from each schema of the database to the next, in versions/; alembic takes them."""
