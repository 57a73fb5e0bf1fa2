"""Every promise of ruvattn's interfaces, tried on all that ruvattn-documents registers: one test for each."""

import ruvattn
from ruvattn.testing import parametrize_with_checks, suite


@parametrize_with_checks(suite(distributions=["ruvattn-documents"]))
def test_every_promise_is_kept(subject, check):
    check(subject)


def test_the_plugin_is_loaded():
    (status,) = [status for status in ruvattn.plugins.status() if status.distribution == "ruvattn-documents"]
    assert status.error is None, status.traceback
    assert status.provides["variant"] == ("documents",)
    assert status.provides["pattern"] == ("documents",)
