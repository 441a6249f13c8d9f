"""Decisions: who may enter, which credential serves, what may be repeated, what a client is told. Pure."""
