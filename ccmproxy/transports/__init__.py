"""Byte-stream transports and outgoing connections.

:mod:`.outbounds` makes client endpoints. :mod:`.tls` wraps an endpoint in TLS; :mod:`.tunnel` connects through a proxy.
"""
