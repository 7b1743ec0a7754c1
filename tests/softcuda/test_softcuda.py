"""softcuda itself, through the real CuPy: what CUDA allows works, and each of its rules that is broken is noticed."""
import os
import subprocess
import sys

import numpy as np
import pytest

from tests import softcuda
from tests.gpus import SOFT, WHY_NOT
from tests.helpers import ROOT, within

if not SOFT:
    if os.environ.get("CI") and not softcuda.real_card():
        raise RuntimeError(WHY_NOT)
    pytest.skip(WHY_NOT, allow_module_level=True)

import cupy  # noqa: E402

runtime = cupy.cuda.runtime
KERNELS = cupy.RawModule(code="""
extern "C" __global__ void add(float* x, int n, float k) {
  if (threadIdx.x < n) x[threadIdx.x] += k;
}
extern "C" __global__ void move(float* to, const float* from, int n) {
  if (threadIdx.x < n) to[threadIdx.x] = from[threadIdx.x];
}
""")
ONES = np.ones(8, np.float32)


@pytest.fixture(autouse=True)
def late():
    """Work is late, device 0 is the current one and has the kernels (a capture could not load them), and what was complained
    of is forgotten."""
    runtime.setDevice(0)
    KERNELS.get_function("add")
    with softcuda.order("late"):
        yield
        softcuda.forgive()


def put(values=ONES, device=0):
    with cupy.cuda.Device(device):
        array = cupy.empty(values.shape, values.dtype)
        array.set(values)
        cupy.cuda.get_current_stream().synchronize()
        return array


def add(x, k=1.0, n=8):
    KERNELS.get_function("add")((1,), (32,), (x, np.int32(n), np.float32(k)))


def move(to, source, n=8):
    KERNELS.get_function("move")((1,), (32,), (to, source, np.int32(n)))


def raises(name):
    """Of the runtime, or of the driver, which writes CUDA_ERROR_… where softcuda writes cudaError…."""
    return pytest.raises(Exception, match=name)


# Order


@pytest.mark.parametrize("mode, seed", [("late", 0), ("eager", 0), ("skewed", 0), ("random", 1), ("random", 2)])
def test_a_stream_does_one_thing_after_the_other(mode, seed):
    with softcuda.order(mode, seed):
        x = put()
        for k in range(1, 5):
            add(x, k)
            move(x[:4], x[4:], 4)
        assert x.get().tolist() == [11] * 8


def test_a_blocking_stream_and_the_default_one_wait_for_each_other():
    x, stream = put(), cupy.cuda.Stream()
    add(x)
    with stream:
        add(x, 10)
        assert x.get().tolist() == [12] * 8
    with stream:
        add(x)
    add(x)
    assert x.get().tolist() == [14] * 8


@pytest.mark.parametrize("waits", [True, False])
def test_a_non_blocking_stream_waits_for_what_it_is_told_to(waits):
    x, stream = put(), cupy.cuda.Stream(non_blocking=True)
    add(x)
    if waits:
        stream.wait_event(cupy.cuda.get_current_stream().record())
    assert x.get(stream=stream).tolist() == [2 if waits else 1] * 8


def test_an_event_passes_when_what_was_before_it_is_done():
    x, event = put(), cupy.cuda.Event()
    add(x)
    event.record()
    assert not event.done and event.done  # asked once, it is done


def test_random_orders_differ_and_a_seed_is_an_order():
    def outcome(seed):
        with softcuda.order("random", seed):
            x, streams = put(), [cupy.cuda.Stream(non_blocking=True) for _ in range(6)]
            for k, stream in enumerate(streams):
                with stream:
                    move(x[k:k + 1], x[k + 1:k + 2], 1)
                    add(x[k + 1:k + 2], k, 1)
            runtime.deviceSynchronize()
            return x.get().tolist()

    found = [outcome(seed) for seed in range(6)]
    assert found == [outcome(seed) for seed in range(6)]
    assert len({tuple(each) for each in found}) > 1


# Memory


def test_pinned_memory_is_read_late_and_pageable_memory_at_once():
    x, stream = put(), cupy.cuda.Stream(non_blocking=True)
    pinned = np.ndarray((8,), np.float32, cupy.cuda.alloc_pinned_memory(32))
    for values, read in (pinned, 9), (np.empty(8, np.float32), 3):
        values[:] = 3
        x.data.copy_from_host_async(values.ctypes.data, 32, stream)
        values[:] = 9
        assert x.get(stream=stream).tolist() == [read] * 8


def test_pinned_memory_is_written_late():
    x, values = put(), np.ndarray((8,), np.float32, cupy.cuda.alloc_pinned_memory(32))
    values[:] = 3
    x.data.copy_to_host_async(values.ctypes.data, 32)
    assert values.tolist() == [3] * 8
    cupy.cuda.get_current_stream().synchronize()
    assert values.tolist() == [1] * 8


def test_pinned_memory_that_is_freed_with_a_copy_to_come():
    x = put()
    with softcuda.without_pool():
        memory = cupy.cuda.alloc_pinned_memory(32)
        x.data.copy_from_host_async(memory.ptr, 32)
        del memory
    assert "pinned memory is freed with 1 copies to come" in softcuda.forgive()[0]


def test_memory_that_nobody_wrote():
    with softcuda.without_pool():
        x, y = cupy.empty(8, np.float32), put()
    assert np.isnan(x.get()).all()
    if softcuda.cuemu.settings.mode == "check":
        move(y, x)
        with raises("LaunchFailure"):
            y.get()
        assert "uninitialised" in softcuda.forgive()[0]


def test_use_after_free_names_who_freed_it():
    x = put()
    with softcuda.without_pool():
        y = put()
        address = np.uint64(y.data.ptr)
        del y
    move(x, address)
    with raises("IllegalAddress"):
        x.get()
    assert "move, from: memory that was freed at\n" in softcuda.forgive()[0]


def test_freeing_twice():
    address = runtime.malloc(32)
    runtime.free(address)
    with raises("InvalidValue"):
        runtime.free(address)
    assert "no allocation that lives" in softcuda.forgive()[0]


def test_overruns():
    with softcuda.without_pool():
        x, y = put(ONES[:4].copy()), put()
        with raises("InvalidValue"):
            runtime.memcpyAsync(x.data.ptr, y.data.ptr, 32, runtime.memcpyDeviceToDevice, 0)
        assert "overrun an allocation of 16 bytes by 16" in softcuda.forgive()[0]
        if softcuda.cuemu.settings.mode == "check":
            add(x)
            with raises("LaunchFailure"):
                x.get()
            assert "out of bounds" in softcuda.forgive()[0]


def test_memory_runs_out():
    with pytest.raises(MemoryError, match="5,368,709,120"):
        cupy.empty(5 << 30, np.uint8)


def test_what_is_counted():
    before = softcuda.device_bytes(0), softcuda.pinned_bytes(), softcuda.calls()
    with softcuda.without_pool():
        held = cupy.empty(1000, np.uint8), cupy.cuda.alloc_pinned_memory(3000)
        assert (softcuda.device_bytes(0), softcuda.pinned_bytes()) == (before[0] + 1000, before[1] + 3000)
        assert (softcuda.calls() - before[2])["cudaMalloc"] == 1
        del held
    assert (softcuda.device_bytes(0), softcuda.pinned_bytes()) == before[:2]


# Devices


@pytest.mark.parametrize("one, other, reach", [(0, 1, True), (2, 3, False)])
def test_another_devices_memory(one, other, reach, monkeypatch):
    monkeypatch.setattr(softcuda.machine.devices[one], "reached", set())  # earlier copies may have enabled it
    assert runtime.deviceCanAccessPeer(one, other) == reach
    x, far = put(device=one), put(2 * ONES, device=other)
    runtime.setDevice(one)
    runtime.memcpyPeerAsync(x.data.ptr, one, far.data.ptr, other, 32, 0)  # which needs no peer access
    assert x.get().tolist() == [2] * 8
    move(x, far)
    with raises("IllegalAddress"):  # not enabled
        x.get()
    assert f"memory of device {other} in a kernel of {one}" in softcuda.forgive()[0]
    if not reach:
        with raises("PeerAccessUnsupported"):
            runtime.deviceEnablePeerAccess(other)
        return
    runtime.deviceEnablePeerAccess(other)
    move(x, far)
    assert x.get().tolist() == [2] * 8
    with raises("PeerAccessAlreadyEnabled"):
        runtime.deviceEnablePeerAccess(other)


def test_a_copy_between_devices_names_the_right_ones():
    x, far = put(), put(device=1)
    with raises("InvalidValue"):
        runtime.memcpyPeerAsync(x.data.ptr, 0, far.data.ptr, 0, 32, 0)


def test_another_devices_streams_events_and_kernels():
    with cupy.cuda.Device(1):
        stream, event = cupy.cuda.Stream(), cupy.cuda.Event()
    with raises("InvalidResourceHandle"):
        cupy.cuda.get_current_stream().record(event)
    with raises("InvalidResourceHandle"):
        KERNELS.get_function("add").kernel((1,), (1,), (put(), np.int32(1), np.float32(1)), stream=stream)
    assert "add of device 0 is launched in a blocking stream of device 1" in softcuda.forgive()[0]
    with cupy.cuda.Device(1):
        stream.record(event)
    cupy.cuda.get_current_stream().wait_event(event)  # but one may wait for it


def test_a_device_that_has_died_says_so_to_all_calls():
    x = put()
    move(x, np.uint64(12345))
    for _ in range(2):
        with raises("IllegalAddress"):
            x.get()
    softcuda.forgive()
    assert x.get().tolist() == [1] * 8


def test_shared_memory_and_blocks_that_are_too_large():
    kernel = KERNELS.get_function("add").kernel
    for block, shared in ((2048,), 0), ((32,), 50 << 10):
        with raises("InvalidValue"):
            kernel((1,), block, (put(), np.int32(1), np.float32(1)), shared_mem=shared)
    with raises("InvalidValue"):
        KERNELS.get_function("add").max_dynamic_shared_size_bytes = 65 << 10
    softcuda.forgive()


def test_events_that_keep_no_time():
    events = [cupy.cuda.Event(disable_timing=True) for _ in range(2)]
    for event in events:
        event.record()
        event.synchronize()
    with raises("InvalidResourceHandle"):
        cupy.cuda.get_elapsed_time(*events)


# Capture


def captured(work, mode=runtime.streamCaptureModeThreadLocal):
    stream = cupy.cuda.Stream()
    with stream:
        stream.begin_capture(mode)
        try:
            work(stream)
        finally:
            graph = stream.end_capture()
    return graph


def test_a_graph_is_launched_as_often_as_one_likes():
    x = put()
    graph = captured(lambda stream: (add(x), add(x, 10)))
    assert x.get().tolist() == [1] * 8
    graph.launch(), graph.launch()
    add(x)
    assert x.get().tolist() == [24] * 8


REFUSED = {  # each is given the captured stream, an array, and an event from before
    "waiting for the stream": (lambda stream, *_: stream.synchronize(), "StreamCaptureUnsupported"),
    "waiting for the device": (lambda *_: runtime.deviceSynchronize(), "StreamCaptureUnsupported"),
    "allocating": (lambda *_: runtime.malloc(512), "StreamCaptureUnsupported"),
    "allocating pinned memory": (lambda *_: cupy.cuda.pinned_memory.PinnedMemory(512), "StreamCaptureUnsupported"),
    "loading a module": (lambda *_: cupy.RawModule(code='extern "C" __global__ void f() {}').get_function("f"),
                         "StreamCaptureUnsupported"),
    "waiting for its event": (lambda stream, *_: stream.record().synchronize(), "CapturedEvent"),
    "waiting for the legacy stream": (lambda *_: cupy.cuda.Stream.null.synchronize(), "StreamCaptureImplicit"),
    "using the legacy stream": (lambda *_: cupy.cuda.Stream.null.record(), "StreamCaptureImplicit"),
    "an event from outside": (lambda stream, x, event: stream.wait_event(event), "StreamCaptureIsolation"),
    "pageable memory": (lambda stream, x, _: runtime.memcpyAsync(x.data.ptr, ONES.ctypes.data, 32, runtime.memcpyHostToDevice,
                                                                  stream.ptr), "StreamCaptureUnsupported"),
    "asking for an event": (lambda *_: cupy.cuda.Event().done, ""),  # which CuPy answers with "no"
    "asking for its event": (lambda stream, *_: stream.record().done, "")}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_capture_does_not_allow(what):
    """The call is an error, and so is the end of the capture."""
    (work, error), x = REFUSED[what], put()
    event = cupy.cuda.get_current_stream().record()
    with raises("StreamCaptureInvalidated") as caught:
        captured(lambda stream: work(stream, x, event))
    assert error in str(caught.value.__context__)


def test_other_threads_are_bound_by_a_global_capture_alone():
    for mode, refused in (runtime.streamCaptureModeThreadLocal, False), (runtime.streamCaptureModeGlobal, True):
        def work(stream, refused=refused):
            if refused:
                with raises("StreamCaptureUnsupported"):
                    within(60, lambda: runtime.malloc(512))
            else:
                assert within(60, lambda: runtime.malloc(512))
        if refused:
            with raises("StreamCaptureInvalidated"):
                captured(work, mode)
        else:
            captured(work, mode)


def test_fork_and_join_in_a_capture():
    x, other = put(), cupy.cuda.Stream(non_blocking=True)

    def fork(stream, join=True):
        other.wait_event(stream.record())
        with other:
            add(x)
        if join:
            stream.wait_event(other.record())

    captured(fork).launch()
    assert x.get().tolist() == [2] * 8
    with raises("StreamCaptureUnjoined"):
        captured(lambda stream: fork(stream, False))
    with raises("StreamCaptureUnmatched"):
        captured(lambda stream: (fork(stream), other.end_capture()))


def test_two_captures_do_not_meet():
    one, other = cupy.cuda.Stream(), cupy.cuda.Stream()
    one.begin_capture(), other.begin_capture()
    with raises("StreamCaptureMerge"):
        one.wait_event(other.record())
    one.end_capture(), other.end_capture()


def test_the_end_of_a_capture_by_another_thread():
    stream = cupy.cuda.Stream()
    stream.begin_capture(runtime.streamCaptureModeThreadLocal)
    with raises("StreamCaptureWrongThread"):
        within(60, stream.end_capture)


def test_the_legacy_stream_cannot_be_captured():
    with raises("StreamCaptureUnsupported"):
        runtime.streamBeginCapture(0, 1)


# Compiling


def test_what_nvrtc_refuses():
    for options, word in (("--no-such-option",), "--no-such-option"), ((), "error"):
        with pytest.raises(cupy.cuda.compiler.CompileException, match=word):
            cupy.RawModule(code='extern "C" __global__ void f() { no such thing }', options=options).get_function("f")
    with raises("SymbolNotFound"):
        KERNELS.get_function("subtract")


def test_a_function_that_is_not_modelled_is_a_fault():
    with raises("NotSupported"):
        runtime.mallocManaged(8)
    assert "which softcuda lacks" in softcuda.forgive()[0]


# Processes


def script(text, **settings):
    """What a script prints, run on softcuda in a process of its own, and its exit code and errors."""
    environment = {f"SOFTCUDA_{name}": str(value) for name, value in settings.items()}
    text = f"from tests import softcuda\nsoftcuda.install()\n{text}"
    return subprocess.run([sys.executable, "-c", text], text=True, cwd=ROOT, capture_output=True, timeout=300,
                          env={**os.environ, **environment})


def test_contexts_are_made_by_what_needs_them():
    done = script("""
import cupy
def contexts(): return [device.number for device in softcuda.machine.devices if device.context]
runtime = cupy.cuda.runtime
runtime.getDeviceCount(), runtime.getDeviceProperties(1), runtime.deviceCanAccessPeer(0, 1), runtime.getDevice()
print(contexts())
runtime.setDevice(2)
print(contexts())
runtime.setDevice(1)
cupy.cuda.Event()
print(contexts())
import threading
thread = threading.Thread(target=lambda: cupy.cuda.alloc_pinned_memory(8))  # whose current device is 0
thread.start(), thread.join()
print(contexts())
""")
    assert done.stdout.splitlines() == ["[]", "[2]", "[1, 2]", "[0, 1, 2]"], done.stderr


@pytest.mark.parametrize("settings, count, error", [
    (dict(DEVICES=1), "1", ""), (dict(DEVICES=0), "", "NoDevice"), (dict(DRIVER=12080), "", "InsufficientDriver"),
    (dict(DRIVER=0), "", "InsufficientDriver"), (dict(BUSY="0"), "4", "DevicesUnavailable")])
def test_settings_of_the_environment(settings, count, error):
    done = script("""
import cupy
print(cupy.cuda.runtime.getDeviceCount())
cupy.empty(8)
""", **settings)
    assert done.stdout.strip() == count and error in done.stderr and (done.returncode != 0) == bool(error)


def test_cupy_is_not_imported_and_a_driver_is_there():
    done = script("""
import ctypes, sys
ctypes.CDLL("libcuda.so.1")
print("cupy" in sys.modules, "cupy_backends" in sys.modules)
""")
    assert done.stdout == "False False\n", done.stderr
    done = script('import ctypes\nctypes.CDLL("libcuda.so.1")', DRIVER=0)
    assert "OSError" in done.stderr


def test_work_that_is_never_waited_for_is_no_trouble_at_the_end():
    done = script("""
import cupy, numpy as np
x, stream, event = cupy.empty(8, np.float32), cupy.cuda.Stream(), cupy.cuda.Event()
x.set(np.ones(8, np.float32))
kernel = cupy.RawModule(code='extern "C" __global__ void f(float* x) { x[0] += 1; }').get_function("f")
kernel((1,), (1,), (x,))
pinned = cupy.cuda.alloc_pinned_memory(64)
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
