"""Tests of the seams."""
