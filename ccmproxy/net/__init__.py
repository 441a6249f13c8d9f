"""Ways out to the network: :mod:`.outbounds` make endpoints; :mod:`.tls` and :mod:`.tunnel` put TLS and a proxy's tunnel
on any of them."""
