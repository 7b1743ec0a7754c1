"""Whether the comparisons of a kernel file notice its mutants (tests.cuemu.mutate): the file with one barrier or guard less."""
import ctypes
from concurrent.futures import ThreadPoolExecutor

import pytest

from cpnet.gpu import source
from tests import cuemu, device
from tests.cuemu import mutate


def mutants(path, included=(), edits=()):
    """The mutants of a .cu and of the files `included` by it, all one text, as compiling is what takes time; then those edited
    by hand, each a text of its own: `edits`, (what to replace, by what)."""
    text = source.text(path)
    found = [mutant for mutant in mutate.switched(text, path.name) if mutant.file in (path.name, *included)]
    for old, new in edits:
        assert old in text, old
        found.append(mutate.Mutant(path.name, 0, f"{old} became {new}", text.replace(old, new, 1)))
    return found


def survey(path, found, compare):
    """[(mutant, what notices it, or None)] for the mutants `found` of a .cu. `compare(patch)` compares its kernels with their
    definitions, for which it may patch what it likes; what it raises says what was noticed."""
    macros = _run(path, source.text(path), 0, compare)[0]  # most mutants go no further than the first variant
    with ThreadPoolExecutor(2) as pool:  # which compile them; they run one by one
        list(pool.map(lambda text: cuemu.RawModule(code=macros + text), {mutant.text for mutant in found}))
    return [(mutant, _notices(path, mutant, compare)) for mutant in found]


def _run(path, text, number, compare):
    """The comparisons with a mutant in place of the file. Returns the macros that it was compiled with, variant by variant."""
    compiled, module = [], device.Runner.module

    def switched(self, code):
        made = module(self, code)
        if code.endswith(source.text(path)):
            compiled.append(code.removesuffix(source.text(path)))
            if number:
                ctypes.c_int.in_dll(made.module.library, mutate.SWITCH).value = number
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "SEEDS", (1,))
        patch.setattr(device.Runner, "module", switched)
        patch.setattr(device.Runner, "mutated", {source.text(path): text})
        device.forget(patch)
        compare(patch)
    return compiled


def _notices(path, mutant, compare):
    """The first line of what the comparisons say when the mutant runs in place of its file, or None."""
    try:
        _run(path, mutant.text, mutant.number, compare)
    except (cuemu.CuemuError, AssertionError) as error:
        if getattr(error, "kind", "") in ("compile", "source"):
            raise
        return (str(error).strip() or "a comparison").splitlines()[0]
    return None
