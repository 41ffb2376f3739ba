from __future__ import annotations

import pytest

from nextclick.shared.runtime import metrics
from nextclick.trainer.data import LeftOut
from nextclick.trainer.main import _report_left_out


def test_what_does_not_count_is_logged_and_measured(caplog: pytest.LogCaptureFixture) -> None:
    _report_left_out(LeftOut(rate=900, share=50, users=1, limit=60))
    assert metrics.LEFT_OUT.labels("rate")._value.get() == 900
    assert metrics.LEFT_OUT.labels("share")._value.get() == 50
    assert "950 clicks of 1 users do not count: 900 came too fast, 50 are more" in caplog.text
    caplog.clear()
    _report_left_out(LeftOut(limit=60))
    assert metrics.LEFT_OUT.labels("rate")._value.get() == 0
    assert caplog.text == ""
