"""The CPU runner itself: that it computes what CUDA defines, and reports what CUDA forbids."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests import cuemu

cuemu.require()

EXAMPLES = Path(__file__).parent / "cuemu" / "examples"
SEMANTICS = cuemu.flatten(EXAMPLES / "semantics.cu")
FAULTS = cuemu.flatten(EXAMPLES / "faults.cu")
TEMPLATES = ("block_sums<float,4>", "block_sums<double,1>")
f4, f8, i4, u4 = np.float32, np.float64, np.int32, np.uint32
rng = np.random.default_rng(0)


@pytest.fixture(params=["fast", "check"])
def kernel(request, seed):
    return cuemu.RawModule(code=SEMANTICS, name_expressions=TEMPLATES, mode=request.param).get_function


@pytest.fixture(params=[0, 1, 2])
def seed(request):
    with cuemu.using(seed=request.param):
        yield request.param


# ---- what kernels compute -------------------------------------------------------------------------------------------


def test_axpy(kernel):
    x, y = rng.standard_normal((2, 1000), f4)
    want = x.astype(f8) * 2.5 + y
    kernel("axpy")((4,), (256,), (x, y, i4(1000), f4(2.5)))
    np.testing.assert_allclose(y, want, atol=1e-6)


def test_axpy_of_doubles():
    x, y = rng.standard_normal((2, 1000))
    want = x * 2.5 + y
    cuemu.RawKernel(SEMANTICS, "axpy", options=("-Dreal=double",), mode="fast")((4,), (256,), (x, y, i4(1000), f8(2.5)))
    np.testing.assert_allclose(y, want, atol=1e-14)


@pytest.mark.parametrize("name, dtype, per_thread", [(TEMPLATES[0], f4, 4), (TEMPLATES[1], f8, 1)])
def test_templates_shared_memory_and_reductions(kernel, name, dtype, per_thread):
    x = rng.standard_normal(3000).astype(dtype)
    blocks = -(-3000 // (128 * per_thread))
    out = np.full(blocks, np.nan, dtype)
    kernel(name)((blocks,), (128,), (x, out, i4(3000)), shared_mem=4 * x.itemsize)
    padded = np.concatenate([x, np.zeros(blocks * 128 * per_thread - 3000)]).reshape(blocks, -1)
    np.testing.assert_allclose(out, padded.sum(1), rtol=1e-5 if dtype == f4 else 1e-13, atol=1e-5)


@pytest.mark.parametrize("bits, dtype, error", [("32", f4, 3e-7), ("64", f8, 1e-15)])
def test_math(kernel, bits, dtype, error):
    x = rng.uniform(0.1, 4, 32).astype(dtype)
    y = np.full((8, 32), np.nan, dtype)
    kernel("functions" + bits)((1,), (32,), (x, y))
    v = x.astype(f8)
    want = [np.exp(v), np.log(v), v**-0.75, np.sqrt(v), 1 / np.sqrt(v), np.tanh(v), v**0.75, v * v + 1]
    np.testing.assert_allclose(y, want, rtol=error, atol=error)


def test_vectors(kernel):
    x = rng.standard_normal((40, 4), f4)
    octets = rng.integers(0, 256, (40, 4), np.uint8)
    sums, copy, pairs = np.zeros(40, f4), np.zeros(40, np.uint8), np.zeros((41, 32), np.uint8)
    kernel("vectors")((1,), (40,), (x, octets, sums, copy, pairs))
    n = octets[:, 0].astype(int) - octets[:, 3]
    want = x[:, 0] + 2 * x[:, 1] + 3 * x[:, 2] + x[:, 3] * (np.arange(40) % 4 + 1) + n
    np.testing.assert_allclose(sums, want, atol=1e-4)
    assert (copy == octets[:, 1]).all()
    assert (pairs[:40, :16] == x.view(np.uint8)).all() and (pairs[40, :24] == pairs[0, :24]).all()
    assert (pairs[:40, 16:24].copy().view(i4) == octets[:, [0, 3]]).all()


@pytest.mark.parametrize("by, width", [(1, 32), (5, 32), (3, 16), (4, 8), (16, 32)])
def test_shuffles(kernel, by, width):
    x, y = rng.integers(-1000, 1000, 64, i4), np.zeros((5, 64), i4)
    kernel("shuffles")((1,), (64,), (x, y, i4(by), i4(width)))
    lane = np.arange(64)
    segment, place = lane // width * width, lane % width
    sources = [
        segment + by % width,
        np.where(place >= by, lane - by, lane),
        np.where(place + by < width, lane + by, lane),
        np.where((lane ^ by) < segment + width, lane ^ by, lane),
        lane ^ 31,
    ]
    assert (y == [x[s] for s in sources]).all()


@pytest.mark.parametrize("p", [0, 0.5, 1])
def test_votes(kernel, p):
    x, y = (rng.random(96) < p).astype(i4), np.zeros((6, 96), u4)
    kernel("votes")((1,), (96,), (x, y))
    warps = x.reshape(3, 32)
    ballots = (warps.astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(1)
    per_warp = [np.repeat(v, 32) for v in (ballots, warps.any(1), warps.all(1))]
    assert (y == [*per_warp, *(np.full(96, v) for v in (x.sum(), x.any(), x.all()))]).all()


def test_order_within_a_warp(kernel):
    x, y = rng.standard_normal(128).astype(f4), np.zeros(128, f4)
    kernel("reverse_in_warp")((2,), (64,), (x, y))
    assert (y.reshape(-1, 32) == x.reshape(-1, 32)[:, ::-1]).all()


def test_atomics(kernel):
    x = rng.integers(0, 7, 1000, i4)
    counts, ends, total, turn = np.zeros(7, i4), i4([99, -1, 0]), np.zeros(1, np.uint64), i4([-1])
    kernel("atomics")((4,), (256,), (x, counts, ends, total, turn, i4(1000)))
    tagged = x * 10 + np.arange(1000) % 10
    assert (counts == np.bincount(x)).all() and (ends == [tagged.min(), tagged.max(), 127]).all()
    assert total[0] == (1000 * 999 // 2) << 30 and 0 <= turn[0] < 1000


def test_async_copies(kernel):
    x, y = rng.standard_normal(224).astype(f4), np.full(352, np.nan, f4)
    kernel("copies")((1,), (32,), (x, y, i4(20)))
    assert (y[:224].reshape(7, 32) == np.roll(x.reshape(7, 32), -7, axis=1)).all()
    assert (y[224:] == np.where(np.arange(128) < 80, x[:128], 0)).all()


def test_ldmatrix(kernel):
    x, y = rng.standard_normal((4, 8, 4)).astype(f4), np.zeros((4, 32), f4)
    kernel("load_matrix")((1,), (32,), (x, y))
    assert (y == x.reshape(4, 32)).all()


def truncated(x):
    return (x.view(u4) & u4(0xFFFFE000)).view(f4).astype(f8)


def test_mma_tf32(kernel):
    a, b, c = (rng.standard_normal(shape).astype(f4) for shape in ((16, 8), (8, 8), (16, 8)))
    d = np.full((16, 8), np.nan, f4)
    kernel("multiply")((1,), (32,), (a, b, c, d))
    np.testing.assert_allclose(d, truncated(a) @ truncated(b) + c, rtol=1e-5, atol=2e-6)


def test_rounding_to_tf32(kernel):
    ulp = 2.0**-10
    x = f4([1, 1 + ulp, 1 + ulp / 2, -1 - ulp / 2, 1 + ulp * 0.49, np.inf, 0, -0.0])
    y = np.zeros(8, u4)
    kernel("round_to_tf32")((1,), (8,), (x, y))
    assert (y.view(f4) == f4([1, 1 + ulp, 1 + ulp, -1 - ulp, 1, np.inf, 0, -0.0])).all()


def test_random_order_shows_a_missing_barrier(seed):
    x, y = rng.standard_normal(128).astype(f4), np.zeros(128, f4)
    for options, right in (((), True), (("-DNO_BARRIER",), seed == 0)):  # in order, it happens to work
        cuemu.RawKernel(SEMANTICS, "shift", options, mode="fast")((1,), (128,), (x, y))
        assert np.array_equal(y[1:], x[:-1]) == right


# ---- what it reports ------------------------------------------------------------------------------------------------


def planted():
    """{kernel: {line: the kinds of fault that may be reported there}} of faults.cu."""
    marks, name = {}, None
    for number, line in enumerate((EXAMPLES / "faults.cu").read_text().splitlines(), 1):
        if found := re.match(r'extern "C" __global__ void (\w+)', line):
            name = found[1]
            marks[name] = {}
        if mark := re.search(r"//! (.*)", line):
            marks[name][number] = mark[1].split(", ")
    return marks


LAUNCHES = {  # blocks, threads; where one warp of one block would not do
    "shared_written_by_another_block": (2, 32),
    "past_vector": (1, 16),
    "race_in_block": (1, 64),
    "overwritten_too_soon": (1, 64),
    "race_between_blocks": (2, 32),
    "reads_what_a_block_wrote": (2, 32),
    "atomic_and_plain": (1, 64),
    "read_before_landing": (1, 64),
    "landed_without_barrier": (1, 64),
    "two_barriers": (1, 64),
}
SAME_ARRAY = {"race_of_arguments"}


@pytest.mark.parametrize("name", planted())
def test_fault(name, seed):
    blocks, threads = LAUNCHES.get(name, (1, 32))
    x, y = np.ones(64, f4), np.ones(64, f4)
    if name == "global_never_written":
        y = cuemu.empty(64)
    kernel = cuemu.RawModule(code=FAULTS, mode="check").get_function(name)
    with cuemu.using(timeout=0.2), pytest.raises(cuemu.CuemuError) as caught:
        kernel(
            (blocks,), (threads,), (y if name in SAME_ARRAY else x, y), shared_mem=64 if name == "past_dynamic" else 0
        )
    error = caught.value
    assert error.file == "faults.cu" and error.kind in planted()[name].get(error.line, ()), error
    assert f"{name}: {error.kind} at faults.cu:{error.line}, block {error.block}, thread {error.thread}" in str(error)
    assert 0 <= error.block[0] < blocks and 0 <= error.thread[0] < threads


def faulty(name, *args, code=FAULTS, grid=1, block=32, mode="check", **more):
    with pytest.raises(cuemu.CuemuError) as caught:
        cuemu.RawModule(code=code, mode=mode).get_function(name)((grid,), (block,), args, **more)
    return str(caught.value)


def test_messages_name_the_array():
    x, y = np.ones((2, 16), f4), np.ones((8, 8), f4)
    message = faulty("read_past_end", x, y)
    assert "bytes past the end of argument 0 (x), float32[2, 16]" in message
    assert "before the start of argument 1 (y)" in faulty("write_before_start", x, y)
    assert "element [0, 1]" in faulty("misaligned_global", x, y)
    assert "bytes past the end of __shared__ a" in faulty("past_shared", x, y)
    assert "bytes past the end of dynamic shared memory" in faulty("past_dynamic", x, y, shared_mem=64)
    assert "__shared__ s at byte 0" in faulty("shared_never_written", x, y)
    message = faulty("overwritten_too_soon", np.ones(64, f4), y, block=64)
    lines = (EXAMPLES / "faults.cu").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if "overwritten_too_soon" in line)
    assert re.search(rf"and the (write by thread \d+|read by another thread) at faults.cu:{start + 5} are not", message)
    line = next(i for i, text in enumerate(lines, 1) if "past_end_in_a_function" in text)
    assert f"(called from faults.cu:{line})" in faulty("past_end_in_a_function", x, y)


def test_faults_of_waiting_are_found_in_fast_mode_too():
    x, y = np.ones(64, f4), np.ones(64, f4)
    for name in ("two_barriers", "left_before_barrier", "outside_its_mask", "half_a_warp", "never_landed"):
        assert "faults.cu" in faulty(name, x, y, block=64, mode="fast")


def test_uninitialised_arrays_become_initialised():
    add = cuemu.RawModule(code=FAULTS, mode="check").get_function("global_never_written")
    write = cuemu.RawModule(code=SEMANTICS, mode="check").get_function("reverse_in_warp")
    x = np.ones(64, f4)
    y = cuemu.empty((2, 64))
    write((1,), (64,), (x, y[1]))
    add((1,), (64,), (x, y[1]))  # by a kernel
    assert (y[1] == 2).all()
    y[0] = 3
    add((1,), (64,), (x, y[0]))  # by the host
    z = cuemu.empty(64)
    add((1,), (64,), (x, cuemu.initialised(z)))  # by declaration
    assert "argument 1 (y)" in faulty("global_never_written", x, cuemu.empty(64))


def test_the_machine_works_on_after_a_fault():
    x, y = np.ones(64, f4), np.zeros(64, f4)
    faulty("half_a_warp", x, y)
    cuemu.RawModule(code=SEMANTICS, mode="check").get_function("reverse_in_warp")((1,), (64,), (x, y))
    assert (y == 1).all()


# ---- arguments and launches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, complaint",
    [
        (lambda x, y: (x, y, 64, f4(1)), "int for a parameter of type int32"),
        (lambda x, y: (x, y, i4(64), 1.0), "float for a parameter of type float32"),
        (lambda x, y: (x, y, i4(64), f8(1)), "float64 for a parameter of type float32"),
        (lambda x, y: (x, y, u4(64), f4(1)), "uint32 for a parameter of type int32"),
        (lambda x, y: (x.astype(f8), y, i4(64), f4(1)), r"argument 0 \(x\): float64 for a pointer to float32"),
        (lambda x, y: (x[::2], y, i4(32), f4(1)), "not C-contiguous"),
        (lambda x, y: (list(x), y, i4(64), f4(1)), "an array, not list"),
        (lambda x, y: (x, np.broadcast_to(y, y.shape), i4(64), f4(1)), r"argument 1 \(y\): a read-only array"),
        (lambda x, y: (x, y, i4(64)), "takes 4 arguments, not 3"),
    ],
)
def test_wrong_arguments(args, complaint):
    kernel = cuemu.RawModule(code=SEMANTICS, mode="fast").get_function("axpy")
    with pytest.raises(TypeError, match=complaint):
        kernel((1,), (64,), args(np.ones(64, f4), np.ones(64, f4)))


def test_launch_limits():
    x, y = np.ones(64, f4), np.ones(64, f4)
    assert "block (2048, 1, 1)" in faulty("overflow", x, y, block=2048)
    assert "grid" in faulty("overflow", x, y, grid=0)
    assert "max_dynamic_shared_size_bytes" in faulty("overflow", x, y, shared_mem=50000)
    large = 'extern "C" __global__ void large(float* y) { __shared__ float s[13000]; s[0] = 1; y[0] = s[0]; }'
    assert "48 KiB" in faulty("large", y, code=large)
    assert "refuses the text" in faulty("k", y, code='extern "C" __global__ void k(float* y) { nonsense }')
    assert "no kernel" in faulty("unknown", x, y)
