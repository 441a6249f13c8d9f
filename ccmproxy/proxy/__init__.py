"""Forwarding one client request to a credential's upstream, and its answer back.

* :mod:`~ccmproxy.proxy.forwarder`: what all requests of a service share.
* :mod:`~ccmproxy.proxy.exchange`: one client request and all of its state, until it is answered.
* :mod:`~ccmproxy.proxy.attempt`: one try at an upstream; the relayed bytes pass through it.
* :mod:`~ccmproxy.proxy.websocket.opening`: one client that asks for a WebSocket, an exchange whose answer may be a 101;
  :mod:`~ccmproxy.proxy.websocket.relay` is what follows that, between two legs (:mod:`~ccmproxy.proxy.websocket.leg`).
"""
