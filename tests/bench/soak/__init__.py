"""The pure parts of the long run: matching, tables, trends, logs, requests."""
