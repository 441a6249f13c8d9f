"""The benchmarks' arithmetic and tables, and the format of the requests that they send."""

from __future__ import annotations

import json
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from bench import bodies
from bench.report import (
    Measurement,
    as_document,
    bottleneck,
    disturbance,
    figure,
    median,
    memory_table,
    ratio,
    summarize,
    table,
    work_table,
)
from bench.scenarios import SCENARIOS, named, shortened


def measured(peer: str, cpu: float, number: int = 1, units: float = 1000.0) -> Measurement:
    """A round of one second in which ``units`` took ``cpu`` seconds; nothing is saturated."""
    return Measurement(
        scenario="small",
        peer=peer,
        round=number,
        units=units,
        seconds=1.0,
        proxy_cpu_seconds=cpu,
        proxy_share=cpu,
        load_share=0.1,
        upstream_share=0.1,
        p50_ms=1.0,
        p99_ms=2.0,
        rss_kib=2048.0,
    )


class FigureTests(SynchronousTestCase):
    """Numbers."""

    def test_three_digits(self) -> None:
        self.assertEqual(
            [figure(value) for value in (0.0123, 1.234, 12.34, 123.4, 12345.6, -0.5, None)],
            ["0.012", "1.23", "12.3", "123", "12,346", "-0.500", "-"],
        )

    def test_median_of_what_is_there(self) -> None:
        self.assertEqual(median([3.0, None, 1.0, 2.0]), 2.0)
        self.assertIsNone(median([None]))

    def test_ratio(self) -> None:
        self.assertEqual(ratio(3.0, 2.0), 1.5)
        for value, reference in ((None, 1.0), (1.0, None), (1.0, 0.0), (1.0, -4.0)):
            self.assertIsNone(ratio(value, reference))


class SummaryTests(SynchronousTestCase):
    """Rounds become medians, medians become ratios."""

    def test_medians_and_ratio_to_nginx(self) -> None:
        rounds = [
            measured(peer, cpu, number)
            for number, costs in enumerate(((0.1, 0.3), (0.2, 0.5), (0.9, 0.4)), 1)
            for peer, cpu in zip(("nginx", "ccmproxy"), costs, strict=True)
        ]
        nginx, ccmproxy = summarize(rounds, share_core=True)
        self.assertEqual(
            (nginx.peer, nginx.rounds, nginx.cpu_ms_per_unit, nginx.ratio), ("nginx", 3, 0.2, 1.0)
        )
        self.assertAlmostEqual(ccmproxy.cpu_ms_per_unit or 0, 0.4)
        self.assertAlmostEqual(ccmproxy.ratio or 0, 2.0)
        self.assertEqual(ccmproxy.rate, 1000.0)

    def test_without_nginx_there_is_no_ratio(self) -> None:
        (summary,) = summarize([measured("go", 0.1)], share_core=True)
        self.assertIsNone(summary.ratio)

    def test_memory_is_compared_by_growth(self) -> None:
        rounds = [
            replace(measured("nginx", 0.2, units=10), rss_before_kib=1000.0, rss_kib=1200.0),
            replace(measured("ccmproxy", 0.1, units=10), rss_before_kib=5000.0, rss_kib=5100.0),
        ]
        nginx, ccmproxy = summarize(rounds, share_core=True)
        self.assertEqual(
            (nginx.rss_kib_per_unit, ccmproxy.rss_kib_per_unit, ccmproxy.ratio), (20.0, 10.0, 0.5)
        )

    def test_a_failed_round_is_told_and_does_not_count(self) -> None:
        failed = Measurement("small", "ccmproxy", 2, note="it ended")
        (summary,) = summarize([measured("ccmproxy", 0.3), failed], share_core=True)
        self.assertEqual((summary.cpu_ms_per_unit, summary.notes), (0.3, ("it ended",)))

    def test_the_document_is_json(self) -> None:
        rounds = [measured("nginx", 0.1)]
        document = as_document(rounds, summarize(rounds, True), {"machine": {"cores": 2}})
        again = json.loads(json.dumps(document))
        self.assertEqual(again["machine"], {"cores": 2})
        self.assertEqual(again["measurements"][0]["proxy_cpu_seconds"], 0.1)


class WarningTests(SynchronousTestCase):
    """A result that says more about the bench than about the proxy is marked."""

    def test_load_limited(self) -> None:
        limited = replace(measured("nginx", 0.5), load_share=0.95)
        self.assertEqual(bottleneck(limited, share_core=False), "load saturated, not the proxy")

    def test_both_on_one_core(self) -> None:
        limited = replace(measured("nginx", 0.5), load_share=0.5, upstream_share=0.45)
        self.assertIn("load + upstream", bottleneck(limited, share_core=True) or "")
        self.assertIsNone(bottleneck(limited, share_core=False))

    def test_proxy_saturated_as_well(self) -> None:
        self.assertIsNone(bottleneck(replace(measured("go", 0.95), load_share=0.95), share_core=True))

    def test_other_programs(self) -> None:
        self.assertIsNone(disturbance(replace(measured("go", 0.5), foreign_share=0.05)))
        disturbed = replace(measured("go", 0.5), foreign_share=0.3)
        self.assertIsNotNone(disturbance(disturbed))
        (summary,) = summarize([disturbed, replace(disturbed, round=2)], share_core=True)
        self.assertEqual(len(summary.notes), 1)


class TableTests(SynchronousTestCase):
    """Markdown, readable as it stands."""

    def test_aligned(self) -> None:
        self.assertEqual(
            table(["peer", "n", "notes"], [["nginx", "1", ""], ["go", "22", "odd"]]).splitlines(),
            [
                "| peer  |  n | notes |",
                "|-------|---:|-------|",
                "| nginx |  1 |       |",
                "| go    | 22 | odd   |",
            ],
        )

    def test_both_kinds(self) -> None:
        summaries = summarize([measured("nginx", 0.1), measured("ccmproxy", 0.2)], True)
        work = work_table(summaries, "request", "requests").splitlines()
        self.assertIn("CPU ms per request", work[0])
        self.assertIn(" 2.00 ", work[3])
        memory = memory_table(summaries, "stream").splitlines()
        self.assertEqual({line.count("|") for line in memory}, {9})


class ScenarioTests(SynchronousTestCase):
    """The list of what is measured."""

    def test_names_are_unique_and_found(self) -> None:
        names = [scenario.name for scenario in SCENARIOS]
        self.assertEqual(len(set(names)), len(names))
        self.assertEqual([each.name for each in named(["paced", "small"])], ["small", "paced"])
        self.assertEqual(named([]), list(SCENARIOS))
        self.assertRaises(KeyError, named, ["smal"])

    def test_shortened_is_still_something(self) -> None:
        for scenario in map(shortened, SCENARIOS):
            self.assertGreater(scenario.seconds, 0)
            self.assertGreater(scenario.connections, 0)
            self.assertEqual(scenario.count > 0, scenario.load == "churn")

    def test_no_tls_with_websockets(self) -> None:
        """The relay, which is their floor, has none."""
        self.assertEqual([each.name for each in SCENARIOS if each.websocket and each.tls], [])


class BodyTests(SynchronousTestCase):
    """What is sent looks like a coding client's request."""

    def test_sizes(self) -> None:
        self.assertLess(len(bodies.small_body()), 400)
        for size in (49_000, 1_000_000):
            self.assertLess(abs(len(bodies.conversation_body(size, False)) - size), 0.03 * size)

    def test_same_every_time(self) -> None:
        self.assertEqual(bodies.conversation_body(50_000, True), bodies.conversation_body(50_000, True))

    def test_contents(self) -> None:
        document = json.loads(bodies.conversation_body(100_000, True))
        self.assertIs(document["stream"], True)
        self.assertEqual({message["role"] for message in document["messages"]}, {"user", "assistant"})
        self.assertTrue(document["system"] and document["tools"])
        user = json.loads(document["metadata"]["user_id"])
        self.assertEqual(set(user), {"device_id", "account_uuid", "session_id"})

    def test_request(self) -> None:
        head, _, body = bodies.request(b"{}", "a-token").partition(b"\r\n\r\n")
        self.assertEqual(body, b"{}")
        self.assertIn(b"\r\nContent-Length: 2", head)
        self.assertIn(b"\r\nAuthorization: Bearer a-token\r\n", head)

    def test_websocket(self) -> None:
        head, _, message = bodies.websocket_request(bodies.turn_message(300), "a-token").partition(
            b"\r\n\r\n"
        )
        self.assertTrue(head.startswith(b"GET /v1/responses HTTP/1.1\r\n"))
        self.assertIn(b"\r\nAuthorization: Bearer a-token\r\n", head)
        self.assertNotIn(b"Extensions", head)
        # The upstream recognizes a turn by this beginning (upstream.c).
        self.assertTrue(message.startswith(b'{"type":"response.create",'))
        self.assertEqual(json.loads(message)["stream"], True)

    def test_sizes_of_turns(self) -> None:
        self.assertLess(len(bodies.turn_message(300)), 400)
        self.assertLess(abs(len(bodies.turn_message(1_000_000)) - 1_000_000), 30_000)
