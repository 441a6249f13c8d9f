"""The dialects, and the values they share: facts about a request, the usage of a response, a login.

:mod:`.base` defines what a dialect consists of; :mod:`.claude` and :mod:`.codex` are the two dialects; :mod:`.catalog`
looks up a dialect by the ``type`` of a service.
"""
