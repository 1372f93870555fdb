"""Asked to stop once, a run saves and stops; asked twice, it stops at once."""

import os
import signal

import pytest

from cifar_resnet.process.stopping import SIGNALS, StopRequest
from cifar_resnet.training.distributed.world import SINGLE_PROCESS


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_stops_at_once(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with StopRequest(SINGLE_PROCESS) as stop:
        assert stop.signal() == 0
        os.kill(os.getpid(), number)
        assert stop.signal() == number
        told = f"{number.name}: saving a checkpoint and stopping; once more stops at once"
        assert told in capsys.readouterr().err
        with pytest.raises(SystemExit) as ended:
            os.kill(os.getpid(), signal.SIGINT)
        assert ended.value.code == 128 + signal.SIGINT
    assert signal.getsignal(number) is before
