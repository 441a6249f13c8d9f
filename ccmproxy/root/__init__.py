"""Builds all parts of ccmproxy from a configuration, and starts and stops them."""
