"""What a newcomer meets: the help of every command, old spellings, and --version."""

import importlib
import pkgutil
import re
import subprocess
import sys

import h5py
import pytest

import run as command_line
from cpnet import __version__, commands, machine, nets
from cpnet.options import Parser
from tests.helpers import ROOT, run, small_set

SENTENCE = re.compile(r"[A-Z][^\n]*\.$")


class Built(Exception):
    """A command has made its parser, which is the argument."""


def parser_of(command, monkeypatch):
    """The parser of a command."""

    def parse(self, words):
        raise Built(self)

    with monkeypatch.context() as patched:
        patched.setattr(Parser, "parse", parse)
        with pytest.raises(Built) as built:
            importlib.import_module(f"cpnet.commands.{command}").main([])
    return built.value.args[0]


def call(capsys, *words):
    """The command line within this process: exit code, stdout, stderr."""
    try:
        code = command_line.main([str(word) for word in words])
    except SystemExit as exit:
        code = exit.code
    return code, *capsys.readouterr()


def test_the_help_fits_on_a_screen_and_names_every_command(capsys):
    code, out, _ = call(capsys, "--help")
    lines = out.splitlines()
    assert code == 0 and len(lines) <= 24 and max(map(len, lines)) <= 100
    assert [call(capsys, word)[:2] for word in ("-h", "help")] == [(0, out)] * 2
    for command in command_line.COMMANDS:
        assert re.search(rf"\b{command}\b", out), command
    for command in command_line.COMMANDS[:5]:
        assert re.search(rf"^  {command} .* python run.py {command} ", out, re.M), command


def test_every_module_with_a_main_is_a_command():
    names = [name for _, name, _ in pkgutil.iter_modules(commands.__path__)]
    found = {name for name in names if hasattr(importlib.import_module(f"cpnet.commands.{name}"), "main")}
    assert found == set(command_line.COMMANDS)


@pytest.mark.parametrize("command", command_line.COMMANDS)
def test_every_option_is_explained_by_a_sentence(command, monkeypatch, capsys):
    parser = parser_of(command, monkeypatch)
    assert SENTENCE.match(parser.description) and f"python run.py {command} " in parser.epilog
    for action in parser._actions:
        if action.help != "==SUPPRESS==":
            assert SENTENCE.match(action.help), (
                f"{command} {action.option_strings or action.dest}: {action.help}"
            )
    code, out, _ = call(capsys, "help", command)
    assert code == 0 and out.startswith(f"usage: python run.py {command} ")
    assert "True" not in out and "False" not in out and "None" not in out


def test_lists_in_the_help_come_from_the_tables(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "1000")
    out = call(capsys, "train", "--help")[1]
    for table in nets.NETS, nets.PROFILES, nets.ACTIVATIONS, nets.POOLS:
        assert all(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", out) for name in table)
    assert ", ".join(nets.NETS) in out and ", ".join(nets.PROFILES) in out
    assert [line[:-1] for line in re.findall(r"^\w.*:$", out, re.M)] == [
        "options",
        "data",
        "net",
        "training",
        "ablations: the net without one of the paper's ideas",
        "device",
        "run",
    ]


def test_train_is_what_bare_options_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small_set("squares.h5", train=16, val=8)
    for words in ["--name", "a"], ["train", "--name", "b"]:
        assert call(capsys, *words, "--data", "squares.h5", "--batch", 8, "--epochs", 1)[0] == 0
    one, other = ((tmp_path / "runs" / name / "checkpoint-last.h5") for name in "ab")
    with h5py.File(one) as first, h5py.File(other) as second:
        assert first.attrs["settings"] == second.attrs["settings"] and first.attrs["program"].decode() == __version__
        assert (first["values/fc8.weight"][()] == second["values/fc8.weight"][()]).all()


def test_old_spellings_work_and_are_not_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small_set("squares.h5", train=16, val=8)
    assert call(capsys, "check", "squares.h5", "--workers", 1)[0] in (0, 1)
    for command in "check", "prepare":
        assert (
            parser_of(command, monkeypatch).parse(["a", "b", "--workers", "2"][command == "check" :]).threads
            == 2
        )
        assert "--workers" not in call(capsys, command, "--help")[1]
        code, _, error = call(capsys, command, *["a", "b"][command == "check" :], "--workers", 0)
        assert code == 2 and "'0' is not a whole number above 0" in error


def test_version(capsys):
    code, out, _ = call(capsys, "--version")
    assert code == 0 and out.startswith(f"cpnet {__version__}\n")
    for word in "Python 3.", "NumPy 2.", "BLAS: ", "CuPy: ", "NVIDIA driver: ", "GPU", "cores":
        assert word in out


def test_version_loads_no_cupy():
    code = "import sys; import run; run.main(['--version']); assert 'cupy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_what_only_prints_loads_neither_compiler_nor_plots():
    for words in "--help", "summary --net mini":
        code = f"import sys; import run; run.console.run(run.main, {words.split()}); " \
               "assert not {'numba', 'matplotlib', 'cupy'} & set(sys.modules)"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_version_where_everything_is_missing(monkeypatch):
    for module in "numpy", "threadpoolctl":
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(machine, "version", lambda package: "")
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    text = machine.about()
    assert (
        "NumPy not installed, BLAS: unknown" in text
        and "CuPy: not installed" in text
        and "GPUs: none found" in text
    )


def test_version_with_cards(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text(
        '#!/bin/sh\ncase "$*" in *driver*) echo 580.65.06;; '
        '*) echo "0, Some GPU, 81559 MiB"; echo "1, Some GPU, 81559 MiB";; esac\n'
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    text = machine.about()
    assert "NVIDIA driver: 580.65.06\nGPU 0, Some GPU, 81559 MiB\nGPU 1, Some GPU, 81559 MiB\n" in text
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert "GPUs: none found" in machine.about()


def test_a_word_too_many(capsys):
    code, _, error = call(capsys, "summary", "mini")
    assert code == 2 and error == "error: 'mini' is one word too many; --help shows what the command takes\n"


def test_a_command_that_does_not_exist(capsys):
    code, _, error = call(capsys, "help", "evalute")
    assert code == 2 and "did you mean 'evaluate'" in error
    assert run("--help", check=0).stdout == command_line.__doc__.strip() + "\n"
