"""The data path: HTTP over any Twisted transport.

:mod:`.server` receives requests and :mod:`.client` sends them; :mod:`.framing` holds the rules of RFC 9112 about where
a message begins and ends, which both of them follow. Heads and bodies are the values of
:mod:`ccmproxy.http.message`, with their bytes as received.
"""
