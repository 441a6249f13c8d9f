"""Decisions: authentication, selection of a credential, retries, and error answers. Pure."""
