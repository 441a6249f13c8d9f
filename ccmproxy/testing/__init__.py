"""Doubles for tests, public and typed: each passes the same tests as the real thing."""
