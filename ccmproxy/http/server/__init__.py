"""HTTP/1.1 as a server: strict readers, one protocol per connection, one object per request."""
