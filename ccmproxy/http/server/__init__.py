"""The HTTP/1.1 server: strict parsers, one protocol per connection, one object per request."""
