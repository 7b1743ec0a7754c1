"""What is around the machine: the cache of compiled kernels, the rewriting of their text, and mutants."""

import ctypes
import os
import threading
from pathlib import Path

import numpy as np

from tests import cuemu
from tests.cuemu import build, mutate, source

cuemu.require()

EXAMPLES = Path(__file__).parent / "examples"
rng = np.random.default_rng(0)


# ---- the cache ------------------------------------------------------------------------------------------------------


def test_concurrent_builders(tmp_path, monkeypatch):
    monkeypatch.setenv("CUEMU_CACHE", str(tmp_path))
    together, built = threading.Barrier(4), []

    def make(folder):
        (folder / "out").write_text("whole")
        together.wait(10)
        return folder / "out"

    threads = [threading.Thread(target=lambda: built.append(build._cached("x", ["key"], make))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_text() for path in built] == ["whole"] * 4
    assert os.listdir(tmp_path) == [built[0].name]
    assert build._cached("x", ["key"], None) == built[0] and build._cached("x", ["key 2"], make_now) != built[0]


def make_now(folder):
    (folder / "out").touch()
    return folder / "out"


def test_a_reason_where_it_cannot_run(monkeypatch):
    monkeypatch.setattr(build.platform, "system", lambda: "Darwin")
    assert build.available.__wrapped__() == (False, "cuemu needs x86-64 Linux")


# ---- rewriting and mutants ------------------------------------------------------------------------------------------


def test_rewriting_keeps_lines():
    text = "a; // x\n/* y\n z */ __shared__ __align__(16) float s[2][N], t;\n"
    text += "#pragma unroll (4)\nextern __shared__ int d[];\n"
    out = source.for_host(text, 16).split("\n")
    assert len(out) == 6 and out[2].split() == (
        "CUEMU_SHARED(s, __align__(16) float s[2][N]); CUEMU_SHARED(t, __align__(16) float t);".split()
    )
    assert out[3:] == ["#pragma GCC unroll 4", "CUEMU_DYNAMIC_SHARED(d, int);", ""]
    kernels, plain = source.kernels(cuemu.flatten(EXAMPLES / "semantics.cu"))
    assert kernels["axpy"] == ["x", "y", "n", "a"] and "axpy" in plain and "block_sums" not in plain


def test_mutants():
    text = cuemu.flatten(EXAMPLES / "tile.cu")
    x, w = rng.standard_normal((13, 100)).astype(np.float32), rng.standard_normal(13).astype(np.float32)
    want = w.astype(np.float64) @ x

    def run(text):
        y = np.full(100, np.nan, np.float32)
        kernel = cuemu.RawKernel(text, "weighted_sum", mode="check")
        kernel((2,), (64,), (x, w, y, np.int32(13), np.int32(100)))
        np.testing.assert_allclose(y, want, atol=1e-5)

    run(text)
    results = mutate.survey(text, run)
    assert {(mutant.description, bool(noticed)) for mutant, noticed in results} == {
        ("removed m < M", True),
        ("weakened m < M to m <= M", True),
        ("removed k0 + k < K", True),
        ("weakened k0 + k < K to k0 + k <= K", True),
        ("removed __syncthreads()", True),
        ("removed m >= M", True),
        ("weakened m >= M to m > M", True),
    }
    assert len(results) == 8
    lines = (EXAMPLES / "tile.cu").read_text().splitlines()
    assert all(mutant.file == "tile.cu" for mutant, _ in results)
    assert all("m < M" in lines[mutant.line - 1] for mutant, _ in results if "m < M" in mutant.description)


def test_switched_mutants_are_the_same():
    """One text for all: by its switch it does what each mutant's own text does, and says where."""
    text = cuemu.flatten(EXAMPLES / "tile.cu")
    x, w = rng.standard_normal((13, 100)).astype(np.float32), rng.standard_normal(13).astype(np.float32)
    want = w.astype(np.float64) @ x

    def outcome(text, number):
        y = np.full(100, np.nan, np.float32)
        module = cuemu.RawModule(code=text, mode="check")
        if number is not None:
            ctypes.c_int.in_dll(module.library, mutate.SWITCH).value = number
        try:
            module.get_function("weighted_sum")((2,), (64,), (x, w, y, np.int32(13), np.int32(100)))
        except cuemu.CuemuError as error:
            return str(error).splitlines()[0]
        return np.allclose(y, want, atol=1e-5)

    apart, together = list(mutate.mutants(text)), mutate.switched(text)
    assert [str(mutant) for mutant in apart] == [str(mutant) for mutant in together]
    assert [mutant.number for mutant in together] == list(range(1, 9)) and len({mutant.text for mutant in together}) == 1
    assert outcome(together[0].text, 0) is True
    outcomes = [outcome(mutant.text, None) for mutant in apart]
    assert [outcome(mutant.text, mutant.number) for mutant in together] == outcomes and True not in outcomes


def test_which_comparisons_are_guards():
    text = """
    if (i >= n || (h + 1) < 0) return;
    const bool ok = (unsigned)h < H && v * 2 >= 0;
    y[i] = a[i] > b ? 1.f : x > 0.f ? 2.f : f(w <= W ? w : 0);
    for (int k = 0; k < n; k++) sum += k << 1;
    if (lane < 32 && p->q == 3) { while (i < n) i++; }
    // guard: performance only
    if (k < K) cp_async_wait<2>();
    return i < n;
    """
    found = [mutant.description for mutant in mutate.mutants(text)]
    assert [d.removeprefix("removed ") for d in found if d.startswith("removed")] == [
        "i >= n",
        "(h + 1) < 0",
        "(unsigned)h < H",
        "v * 2 >= 0",
        "a[i] > b",
        "w <= W",
        "cp_async_wait<2>()",
        "i < n",
    ]
    assert "weakened v * 2 >= 0 to v * 2 >= -1" in found and "weakened (h + 1) < 0 to (h + 1) < -1" in found
    assert len(found) == 15
