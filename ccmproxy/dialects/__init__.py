"""The dialects, and the values that they are asked for: facts of a request, usage of an answer, a login.

:mod:`.base` says what a dialect consists of; :mod:`.claude` and :mod:`.codex` are the two; :mod:`.catalog` finds one
by the ``type`` of a service.
"""
