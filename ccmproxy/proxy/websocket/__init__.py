"""WebSockets between clients and upstreams: the opening, the relay, what it tells of the limits."""
