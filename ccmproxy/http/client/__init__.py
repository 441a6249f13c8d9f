"""The HTTP/1.1 client: one connection pool per upstream."""
