"""HTTP/1.1 as a client: one pool of connections per upstream."""
