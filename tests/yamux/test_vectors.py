"""Recorded sessions of two Go peers, replayed by our sessions; and our answers compared with known answers of Go."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.yamux import CannotOpen, SessionConfig
from tests.yamux.sides import ConnectionPair, Side, described, frames

VECTORS: dict[str, Any] = json.loads(Path(__file__).with_name("vectors.json").read_text())

#: Go's DATA frames are as long as each write; ours are limited, so the limit is raised.
ANY_LENGTH = 2**30


def raw(entry: dict[str, Any]) -> bytes:
    """Return the bytes of a frame of the vectors."""
    payload: bytes = bytes.fromhex(entry.get("payload_hex", ""))
    payload += bytes([entry.get("payload_fill_byte", 0)]) * entry.get("payload_len", 0)
    header: str = entry["header_hex"]
    return bytes.fromhex(header) + payload + bytes(entry.get("payload_zeros", 0))


class HeaderTests(SynchronousTestCase):
    """The examples of single frames."""

    def test_examples(self) -> None:
        words = [described(bytes.fromhex(example["hex"])) for example in VECTORS["header_examples"]]
        self.assertEqual(
            words,
            [
                ["WUPD|SYN id=1 len=262144"],
                ["WUPD|SYN id=1 len=0"],
                ["WUPD|ACK id=1 len=262144"],
                ["DATA id=1 len=5 b'hello'"],
                ["WUPD id=1 len=262144"],
                ["WUPD|FIN id=1 len=0"],
                ["WUPD|RST id=1 len=0"],
                ["PING|SYN id=0 len=7"],
                ["PING|ACK id=0 len=7"],
                ["GOAWAY id=0 len=0"],
                ["GOAWAY id=0 len=1"],
                ["GOAWAY id=0 len=2"],
            ],
        )


class Replay:
    """Replays the commands of a recorded session on two sessions of ours."""

    def __init__(self, scenario: dict[str, Any]) -> None:
        config = SessionConfig(max_window=scenario["window"], max_frame=ANY_LENGTH)
        self.pair = ConnectionPair(config, config)
        for side in (self.pair.client, self.pair.server):
            side.on_event = side.hold

    def run(self, step: dict[str, Any]) -> tuple[dict[str, Any], bytes, bytes]:
        """Run one command; return its result, and the bytes that each side sent."""
        side: Side = getattr(self.pair, step["side"])
        sent = self.pair.sent
        before = [len(sent[self.pair.client]), len(sent[self.pair.server])]
        result = self.command(side, step["cmd"].split(), step["result"])
        self.pair.exchange()
        return (
            result,
            bytes(sent[self.pair.client][before[0] :]),
            bytes(sent[self.pair.server][before[1] :]),
        )

    def command(self, side: Side, words: list[str], expected: dict[str, Any]) -> dict[str, Any]:
        """Run one command; return what Go's peer would have printed."""
        session = side.session
        match words:
            case ["open"]:
                try:
                    return {"id": side.open().id}
                except CannotOpen:
                    return {"err": "remote end is not accepting connections"}
            case ["ping"]:
                session.ping(side.now)
                return {}
            case ["goaway"]:
                session.go_away()
                return {}
            case ["stats"]:
                return {"closed": session.error is not None, "streams": session.streams}
        stream = side.streams[int(words[1])]
        match words:
            case ["write", _, data]:
                session.send(stream, bytes.fromhex(data))
                return {"n": len(data) // 2}
            case ["fill", _, size]:
                session.send(stream, bytes(int(size)))
                return {"n": int(size)}
            case ["fill", _, _, _]:  # gives up after a time: only what there was window for has been written
                room = stream.send_window.available
                session.send(stream, bytes(room))
                return {"n": room, "err": "i/o deadline reached"}
            case ["read", _, size]:
                got = side.read(stream, int(size))
                at_end = {"err": "EOF"} if not got and stream in side.ended else {}
                return {"n": len(got), "hex": got.hex(), **at_end}
            case ["readall", _, size]:
                return {"n": len(side.read(stream, int(size)))}
            case ["close", _]:
                session.close_write(stream)
                return {}
        raise AssertionError(f"unknown command {words}")


class RecordedSessionTests(SynchronousTestCase):
    """Our bytes are the same as those of Go, command by command."""

    def replay(self, name: str) -> None:
        """Replay the recorded session of that name."""
        (scenario,) = [found for found in VECTORS["scenarios"] if found["name"] == name]
        replay = Replay(scenario)
        for step in scenario["steps"]:
            result, from_client, from_server = replay.run(step)
            where = f"{step['side']} {step['cmd']}"
            self.assertEqual(result, step["result"], where)
            for said, recorded in (
                (from_client, step["client_to_server"]),
                (from_server, step["server_to_client"]),
            ):
                expected = b"".join(map(raw, recorded))
                self.assertEqual([h for h, _ in frames(said)], [h for h, _ in frames(expected)], where)
                self.assertTrue(said == expected, where)  # assertEqual would print a window of zeros
        for side, key in ((replay.pair.client, "client_to_server"), (replay.pair.server, "server_to_client")):
            everything = replay.pair.sent[side]
            self.assertEqual(len(everything), scenario[key]["bytes"])
            self.assertEqual(hashlib.sha256(everything).hexdigest(), scenario[key]["sha256"])

    def test_short_with_512_kib(self) -> None:
        self.replay("short_512k")

    def test_short_with_256_kib(self) -> None:
        self.replay("short_256k")

    def test_windows_of_512_kib(self) -> None:
        self.replay("window_512k")

    def test_windows_of_256_kib(self) -> None:
        self.replay("window_256k")

    def test_these_are_all(self) -> None:
        names = [scenario["name"] for scenario in VECTORS["scenarios"]]
        self.assertEqual(names, ["short_512k", "short_256k", "window_512k", "window_256k"])


#: GO_AWAY at the end of a session: Go intends to send it, but closes the connection before it has. We send it.
_VIOLATION = ["GOAWAY id=0 len=1"]

#: Cases in which our answers differ from Go's, by step: all frames that we send, and the session's state afterwards.
DIFFERENT: dict[str, tuple[list[list[str]], str]] = {
    # We acknowledge a stream when it is opened. Go does so when it is accepted, and not at all if FIN came before.
    "open with DATA|SYN|FIN carrying payload": (
        [["WUPD|ACK id=1 len=262144", "DATA id=1 len=5 b'hello'", "WUPD|FIN id=1 len=0"]],
        "alive",
    ),
    "backlog 2 exceeded, nobody accepts": (
        [["WUPD|ACK id=1 len=262144", "WUPD|ACK id=3 len=262144", "WUPD|RST id=5 len=0"]],
        "alive",
    ),
    # We acknowledge at once, so the larger window is valid from the beginning.
    "512 KiB window: 262145 bytes at once before the ACK was read": (
        [["WUPD|ACK id=1 len=262144"]],
        "alive",
    ),
    "version 1": ([_VIOLATION], "closed"),
    "type 4": ([_VIOLATION], "closed"),
    "duplicate SYN": ([["WUPD|ACK id=1 len=262144"], _VIOLATION], "closed"),
    "FIN twice": ([["WUPD|ACK id=1 len=262144"], [], _VIOLATION], "closed"),
    "window exceeded by 1 (peer holds, 256 KiB window)": ([["WUPD|ACK id=1 len=0"], _VIOLATION], "closed"),
}


class ReactionTests(SynchronousTestCase):
    """Our answers to frames, compared with those of a Go server."""

    def test_every_reaction(self) -> None:
        self.assertEqual(len(VECTORS["peer_reactions"]), 36)
        for case in VECTORS["peer_reactions"]:
            for piece in (0, 1, 7):
                self.check(case, piece)

    def check(self, case: dict[str, Any], piece: int) -> None:
        """Run one case. ``piece``: number of bytes received at a time; 0: all of a step at once."""
        options = case["go_options"]
        window = int(options[options.index("-window") + 1]) if "-window" in options else 512 * 1024
        backlog = int(options[options.index("-backlog") + 1]) if "-backlog" in options else 256
        side = Side(SessionConfig(max_window=window, accept_backlog=backlog))
        side.on_event = {"echo": side.echo, "hold": side.hold, "never": None}[case["go_accept_mode"]]
        if "goaway" in options:
            side.session.go_away()
            self.assertEqual(side.says(), ["GOAWAY id=0 len=0"])
        answers = []
        for step in case["steps"]:
            data = b"".join(map(raw, step["send"]))
            if piece and len(data) > 10_000:
                return  # takes seconds, and shows nothing that the short ones do not
            for at in range(0, len(data), piece or len(data)):
                side.receive(data[at : at + (piece or len(data))])
            answers.append(side.says())
        if case["case"] == "half frame then EOF":
            side.receive(b"\0\0\0")
            side.session.receive_end()
        recorded = [step["go_answers"] for step in case["steps"]]
        expected, state = DIFFERENT.get(case["case"], (recorded, case["session_afterwards"]))
        self.assertEqual(answers, expected, case["case"])
        self.assertEqual("alive" if side.session.error is None else "closed", state, case["case"])

    def test_differences_are_real(self) -> None:
        for case in VECTORS["peer_reactions"]:
            if case["case"] in DIFFERENT:
                recorded = [step["go_answers"] for step in case["steps"]]
                self.assertNotEqual(
                    (recorded, case["session_afterwards"]), DIFFERENT[case["case"]], case["case"]
                )
