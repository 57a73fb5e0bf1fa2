"""Every promise of ruvattn's interfaces, tried on all that plugin-name registers: one test for each."""

import pytest
import ruvattn
from ruvattn.testing import parametrize_with_checks, suite

SUBJECTS = suite(distributions=["plugin-name"])
if not SUBJECTS:
    pytest.fail("nothing of plugin-name is registered: pip install -e ., then ruvattn plugins --verbose", pytrace=False)


@parametrize_with_checks(SUBJECTS)
def test_every_promise_is_kept(subject, check):
    check(subject)


def test_the_plugin_is_loaded():
    (status,) = [status for status in ruvattn.plugins.status() if status.distribution == "plugin-name"]
    assert status.error is None, status.traceback
    assert status.provides["variant"] == ("registered-name",)
    assert status.provides["score"] == ("registered-name",)  # only score
    assert status.provides["pattern"] == ("registered-name",)  # only pattern
