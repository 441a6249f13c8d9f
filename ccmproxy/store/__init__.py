"""What outlives the process (spec 9). So far: the journal, which has a record before a client sees the end of its
answer, and usage in an SQLite database."""
