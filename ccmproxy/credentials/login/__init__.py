"""Logins of accounts: their stores, their refreshes, and the detection of changes that other programs make to them."""
