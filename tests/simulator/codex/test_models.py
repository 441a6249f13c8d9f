"""One list of models for two kinds of clients."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.codex.models import MODELS, catalog, is_served, model_document


class ModelsTests(SynchronousTestCase):
    """The catalog."""

    def test_both_shapes(self) -> None:
        body, etag = catalog()
        document = json.loads(body)
        self.assertEqual([model["id"] for model in document["data"]], list(MODELS))
        self.assertEqual([model["slug"] for model in document["models"]], list(MODELS))
        self.assertEqual(document["object"], "list")
        self.assertTrue(etag.startswith(b'W/"'))
        self.assertEqual(model_document("gpt-5.4")["id"], "gpt-5.4")

    def test_served(self) -> None:
        self.assertTrue(all(map(is_served, MODELS)))
        self.assertFalse(is_served("claude-opus-5"))
