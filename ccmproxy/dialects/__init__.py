"""The dialects, and the values that they are asked for: facts of a request, usage of an answer, a login.

:mod:`.base` says what a dialect consists of; :mod:`.claude` and :mod:`.codex` are the two; :mod:`.catalog` finds one
by the ``type`` of a service. What both do alike stands here, as functions: :mod:`.logins`, :mod:`.verdicts`,
:mod:`.own_errors`, :mod:`.meters`, :mod:`.account_fields`, :mod:`.model_families`, :mod:`.json_values`.
"""
