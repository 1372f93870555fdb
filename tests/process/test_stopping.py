"""Asked to stop once, a run saves and stops; asked twice, it stops at once."""

import os
import signal

import pytest

from cifar_resnet.process.stopping import StopRequest
from cifar_resnet.training.distributed.world import ALONE


def test_a_second_signal_stops_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest(ALONE) as stop:
        assert stop.signal() == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal() == signal.SIGTERM
        told = "SIGTERM: saving the state and stopping; once more stops at once"
        assert told in capsys.readouterr().err
        with pytest.raises(SystemExit) as ended:
            os.kill(os.getpid(), signal.SIGINT)
        assert ended.value.code == 128 + signal.SIGINT
    assert signal.getsignal(signal.SIGTERM) is before
