"""Tests of the pool simulation."""
