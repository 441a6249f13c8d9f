"""The seams of ccmproxy that have, or will have, more than one implementation; nothing else is here.

* :mod:`.credentials`: accounts and what selects among them; where an account's login is kept.
* :mod:`.facets`: what a dialect is asked.
* :mod:`.network`: ways out, and changes of the machine's network.
"""
