"""Credentials that are other instances: asked for their state, and told of changes."""
