"""Logins of accounts: where they are kept, how they are kept fresh, and how a change by somebody else is noticed."""
