"""Bad input of every kind, to every command; fuzz.py says how."""
from tests.fuzz import fuzz


def test_bad_input_is_one_line_and_changes_nothing(tmp_path):
    """250 cases of the seeds 0, 1, 2 …, the same ones every time."""
    kinds, wrong = fuzz(250, tmp_path)
    assert not wrong, "\n".join(f"seed {seed}, {case}: {found}" for seed, case, found in wrong)
    assert kinds["damaged"] == 150 and kinds["absurd"] >= 50
