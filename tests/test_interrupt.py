"""Long outputs, killed at any system call, and made by two processes at once; interrupt.py says how."""
import pytest

from tests import interrupt


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupt") / "good"
    folder.mkdir()
    interrupt.fixture(folder)
    return folder


@pytest.mark.parametrize("name", interrupt.KILLED)
def test_killed_and_given_again_it_makes_the_same(good, name):
    interrupt.kills(name, 3, good)


@pytest.mark.parametrize("name", interrupt.RACES)
def test_of_two_at_once_each_makes_its_own_or_says_no(good, name):
    interrupt.races(name, 2, good)
