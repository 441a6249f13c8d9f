"""Forwarding one client request to a credential's upstream, and its answer back.

* :mod:`~ccmproxy.proxy.forwarder`: takes the requests of a service, and looks after those that are under way.
* :mod:`~ccmproxy.proxy.context`: what they share; :mod:`~ccmproxy.proxy.registry`: which they are.
* :mod:`~ccmproxy.proxy.proxied_request`: one of them, who sent it, and the one answer that it gets.
* :mod:`~ccmproxy.proxy.exchange`: the tries that it takes; :mod:`~ccmproxy.proxy.attempt`: one of those, and the bytes
  that are relayed.
* :mod:`~ccmproxy.proxy.answering`: what becomes of an answer over HTTP; :mod:`~ccmproxy.proxy.websocket`: the same for
  one that opens a WebSocket, and the WebSocket.
"""
