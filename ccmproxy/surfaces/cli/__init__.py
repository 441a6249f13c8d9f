"""The ``ccmproxy`` command."""
