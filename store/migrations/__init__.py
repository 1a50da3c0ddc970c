"""Append-only migrations: a file for each change of the tables, never edited once released."""
