"""Whether the comparisons of a kernel file notice its mutants (tests.cuemu.mutate): the file with one barrier or guard less."""
from concurrent.futures import ThreadPoolExecutor

import pytest

from cpnet import launch
from tests import cuemu, device
from tests.cuemu import mutate


def mutants(path, included=(), edits=()):
    """The mutants of a .cu, and of those files that it includes; then, edited by hand, `edits`: (what to replace, by what)."""
    text = launch.text(path)
    for mutant in mutate.mutants(text):
        if mutant.file in (path.name, *included):
            yield mutant
    for old, new in edits:
        assert old in text, old
        yield mutate.Mutant(path.name, 0, f"{old} became {new}", text.replace(old, new, 1))


def survey(path, found, compare):
    """[(mutant, what notices it, or None)] for the mutants `found` of a .cu. `compare(patch)` compares its kernels with their
    definitions, for which it may patch what it likes; what it raises says what was noticed."""
    with ThreadPoolExecutor(2) as pool:  # which compile them; they run one by one
        options = _run(path, launch.text(path), compare)[0]  # most mutants go no further than the first variant
        list(pool.map(lambda mutant: cuemu.RawModule(code=mutant.text, options=options), found))
    return [(mutant, _notices(path, mutant, compare)) for mutant in found]


def _run(path, text, compare):
    """The comparisons with `text` in place of the file's. Returns the options that it was compiled with."""
    compiled, module = [], device.Runner.module

    def recorded(self, code, options):
        if code == launch.text(path):
            compiled.append(options)
        return module(self, code, options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "SEEDS", (1,))
        patch.setattr(device.Runner, "module", recorded)
        patch.setattr(device.Runner, "mutated", {launch.text(path): text})
        for cache in "_modules", "_functions", "_workspaces":
            patch.setattr(launch, cache, {})
        compare(patch)
    return compiled


def _notices(path, mutant, compare):
    """The first line of what the comparisons say when the mutant runs in place of its file, or None."""
    try:
        _run(path, mutant.text, compare)
    except (cuemu.CuemuError, AssertionError) as error:
        if getattr(error, "kind", "") in ("compile", "source"):
            raise
        return (str(error).strip() or "a comparison").splitlines()[0]
    return None
