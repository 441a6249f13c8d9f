"""WebSockets between clients and upstreams: the handshakes, the relay, and the reporting of limits to clients."""
