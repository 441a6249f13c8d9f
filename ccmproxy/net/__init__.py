"""Ways out to the network: :mod:`.outbounds` make endpoints, :mod:`.tls` puts TLS on any of them."""
