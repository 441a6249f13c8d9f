"""Tests of ccmproxy, laid out like the package; ``tests.interop`` needs other programs and skips itself without them."""
