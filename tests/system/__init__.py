"""Whole programs in processes of their own. ``make test-all`` runs these too, ``make test`` does not."""
