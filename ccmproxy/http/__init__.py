"""The data path: HTTP over any Twisted transport.

:mod:`.server` takes requests, :mod:`.client` makes them; :mod:`.framing` holds what RFC 9112 says about where
a message begins and ends, for both. Heads and bodies are the values of :mod:`ccmproxy.http.message`, bytes as they
came.
"""
