"""Forwarding a client's request to the upstream of a credential, and the response back to the client.

* :mod:`~ccmproxy.proxy.forwarder`: receives the requests of a service, and supervises those in progress.
* :mod:`~ccmproxy.proxy.context`: the state that all requests of a service share; :mod:`~ccmproxy.proxy.registry`: the
  requests, streams and WebSockets in progress.
* :mod:`~ccmproxy.proxy.proxied_request`: one request, its caller, and its single answer.
* :mod:`~ccmproxy.proxy.exchange`: the attempts that a request takes; :mod:`~ccmproxy.proxy.attempt`: one attempt, and
  the relaying of its response.
* :mod:`~ccmproxy.proxy.answering`: how an HTTP response is handled; :mod:`~ccmproxy.proxy.websocket`: how a response is
  handled that opens a WebSocket, and the open WebSocket.
"""
