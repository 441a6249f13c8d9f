"""Public, typed test doubles. Each passes the same tests as the real implementation."""
