"""Ways out to the network.

:mod:`.outbounds` make endpoints; :mod:`.tls` and :mod:`.tunnel` put TLS, and the tunnel of a proxy, on any of them.
"""
