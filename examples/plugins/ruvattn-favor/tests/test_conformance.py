"""Every promise of ruvattn's interfaces, tried on all that ruvattn-favor registers: one test for each."""

import ruvattn
from ruvattn.testing import parametrize_with_checks, suite


@parametrize_with_checks(suite(distributions=["ruvattn-favor"]))
def test_every_promise_is_kept(subject, check):
    check(subject)


def test_the_plugin_is_loaded():
    (status,) = [status for status in ruvattn.plugins.status() if status.distribution == "ruvattn-favor"]
    assert status.error is None, status.traceback
    assert status.provides["variant"] == ("favor",)
