"""The dialects, and the values they share: facts about a request, the usage of a response, a login.

:mod:`.base` says what a dialect consists of; :mod:`.claude` and :mod:`.codex` are the two; :mod:`.catalog` finds one
by the ``type`` of a service. What both do alike stands here, as functions: :mod:`.logins`, :mod:`.verdicts`,
:mod:`.own_errors`, :mod:`.meters`, :mod:`.account_fields`, :mod:`.model_families`, :mod:`.json_values`.
"""
