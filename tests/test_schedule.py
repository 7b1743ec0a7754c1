import pytest

from cpnet.errors import CpnetError
from cpnet.schedule import schedule


def drops_after(kind, errors):
    drops = []
    for epoch, error in enumerate(errors, 1):
        kind.after_epoch(epoch, error)
        drops.append(kind.drops)
    return drops


def test_plateau_divides_when_there_is_no_new_best_for_so_many_epochs():
    kind = schedule("plateau", 54)
    assert kind.patience == 3
    assert drops_after(kind, [.5, .4, .4, .45, .41, .39, .39, .39, .38]) == [0, 0, 0, 0, 1, 1, 1, 1, 1]


def test_plateau_divides_three_times_at_most():
    assert drops_after(schedule("plateau", 10), [.5] * 20)[-1] == 3
    assert drops_after(schedule("plateau", 10), [.5] * 20).index(1) == 3  # the first epoch is a best


def test_patience_follows_the_length_of_the_run():
    assert [schedule("plateau", epochs).patience for epochs in (1, 54, 90, 180)] == [3, 3, 5, 10]


def test_fixed_epochs():
    assert drops_after(schedule("2,5", 6), [.1] * 6) == [0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("text", ["plateau", "2,5"])
def test_goes_on_from_its_state(text):
    errors = [.5, .4, .4, .45, .41, .39, .39, .39, .39, .39]
    whole = schedule(text, 54)
    expected = drops_after(whole, errors)
    first = schedule(text, 54)
    drops_after(first, errors[:4])
    second = schedule(text, 54)
    second.restore(first.state())
    for epoch in range(5, 11):
        second.after_epoch(epoch, errors[epoch - 1])
        assert second.drops == expected[epoch - 1]
    assert second.state() == whole.state()


@pytest.mark.parametrize("text", ["", "never", "3,2", "2,2", "0,4", "1.5", "2,"])
def test_refuses_what_is_no_schedule(text):
    with pytest.raises(CpnetError, match="--schedule"):
        schedule(text, 90)
