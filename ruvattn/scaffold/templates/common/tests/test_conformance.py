"""Every promise of ruvattn's interfaces, tried on all that plugin-name registers: one test for each."""

import ruvattn
from ruvattn.testing import parametrize_with_checks, suite


@parametrize_with_checks(suite(distributions=["plugin-name"]))
def test_every_promise_is_kept(subject, check):
    check(subject)


def test_the_plugin_is_loaded():
    (status,) = [status for status in ruvattn.plugins.status() if status.distribution == "plugin-name"]
    assert status.error is None, status.traceback
    assert status.provides["variant"] == ("plugin-name",)
    assert status.provides["score"] == ("plugin-name",)  # only score
    assert status.provides["pattern"] == ("plugin-name",)  # only pattern
