"""Forwarding one client request to a credential's upstream, and its answer back.

* :mod:`~ccmproxy.proxy.forwarder`: what all requests of a service share.
* :mod:`~ccmproxy.proxy.exchange`: one client request and all of its state, until it is answered.
* :mod:`~ccmproxy.proxy.attempt`: one try at an upstream; the relayed bytes pass through it.
* :mod:`~ccmproxy.proxy.websocket`: one client that asks for a WebSocket, an exchange whose answer may be a 101;
  :mod:`~ccmproxy.proxy.websocket_relay` is what follows that, between two
  :mod:`legs <ccmproxy.proxy.websocket_leg>`, with the :mod:`state of all <ccmproxy.proxy.aggregate_push>` told inside.
"""
