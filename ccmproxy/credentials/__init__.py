"""Accounts: the files that hold their logins, fresh tokens, usage polls, and the leases that requests hold on them.

This package knows no dialect: an :class:`~ccmproxy.interfaces.IAccountFormat` says what a login file, a token refresh
and a usage answer look like.
"""
