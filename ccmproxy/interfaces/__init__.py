"""The interfaces of ccmproxy: those that have, or will have, more than one implementation.

* :mod:`.credentials`: credentials, the providers that select among them, and the stores of logins.
* :mod:`.facets`: the facets of a dialect.
* :mod:`.network`: outbounds, and monitors of the machine's network.
* :mod:`.reverse`: reverse connections.
* :mod:`.store`: the store of what outlives the process.
"""
