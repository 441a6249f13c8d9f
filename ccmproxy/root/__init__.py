"""Builds everything from a configuration, and owns its life and death."""
