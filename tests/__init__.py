"""Tests of ccmproxy, laid out like the package.

Besides, ``tests.system`` starts whole programs, and ``tests.interop`` runs the real clients, and skips itself
where these are missing. ``make test`` leaves both out.
"""

from tests import profiles

profiles.choose()
