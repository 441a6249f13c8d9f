"""WebSocket (RFC 6455) without I/O: bytes in, events out, for either side of a connection on any transport.

* :mod:`.handshake`: what the two heads of an upgrade must say, and what they agree on.
* :mod:`.deflate`: permessage-deflate (RFC 7692), inflation bounded.
* :mod:`.masking`: the mask of what clients send, in machine code where autobahn brings that.
* :mod:`.utf8`: what text must be.
* :mod:`.frame_head`: what stands before a payload.
* :mod:`.connection`: frames to messages and back.

Made for a relay: messages are bytes and stay so, whoever reads decides when the next one is made of what has come,
and nothing that a peer sends can make more than one message's limit of memory be used. docs/websocket.md says why it
is not autobahn's, and what each of them costs.
"""
