"""The providers that users are routed to: a single credential, or a pool over which sessions are distributed."""
