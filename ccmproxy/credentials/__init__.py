"""Accounts: the files that hold their logins, fresh tokens, usage polls, and the leases that requests hold on them.

Knows no dialect: what a file, a refresh or a usage answer looks like is asked of an
:class:`~ccmproxy.interfaces.IAccountFormat`.
"""
