"""Credentials that are other instances of ccmproxy. Their state is polled, and streamed when they report changes."""
