"""The state of credentials: their limits, their availability, and how inputs change them. Pure."""
