"""Asked to stop once, a run saves and stops; asked twice, it stops at once."""

import os
import signal

import pytest

from cifar_resnet.process.stopping import StopRequest
from cifar_resnet.training.distributed.world import ALONE


@pytest.mark.parametrize(
    ("number", "second"), [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)]
)
def test_a_second_signal_stops_at_once(
    number: signal.Signals, second: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with StopRequest(ALONE) as stop:
        assert stop.signal() == 0
        os.kill(os.getpid(), number)
        assert stop.signal() == number
        assert (
            f"{number.name}: saving the state and stopping; once more stops at once"
            in capsys.readouterr().err
        )
        with pytest.raises(SystemExit) as ended:
            os.kill(os.getpid(), second)
        assert ended.value.code == 128 + second
    assert signal.getsignal(number) is before
