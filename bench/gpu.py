"""Training steps on one GPU, ours and PyTorch's, for `bench.contestant`.

A turn is STEPS steps between two events, after a few that bring the clocks up; its figure is the mean of a step. Nothing is
read back within a turn, by anybody. One batch serves for all steps: its 77 MB, and the 4 GB that a step moves before it
comes to the batch again, are more than any cache holds.
"""
import numpy as np

# The best that PyTorch offers; fused SGD everywhere but in "eager".
PEERS = {"eager": "PyTorch as it comes, cudnn.benchmark on", "channels_last": "eager, N H W C in memory, fused SGD",
         "graph": "channels_last, LRN by hand, the whole step one CUDA graph",
         "compile": "torch.compile, max-autotune (it uses CUDA graphs)",
         "compile+": "the same, channels_last, LRN by hand"}
AUTOTUNED = {"compile", "compile+"}  # minutes to start: at the first batch size only
CLASSES = {"fp32": "TF32 off everywhere", "tf32": "TF32 for convolutions and products",
           "default": "PyTorch's defaults: TF32 convolutions, float32 products", "bf16": "PyTorch under autocast to bfloat16"}
STEPS, WARM = 20, 5


def precision(kind):
    """Set PyTorch to a class of CLASSES."""
    import torch
    torch.backends.cudnn.allow_tf32 = kind != "fp32"
    torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")


def math(kind):
    """Set ours to a class: tf32 stands beside PyTorch's faster ones. Returns its name."""
    from cpnet.precision import set_math
    wanted = "fp32" if kind == "fp32" else "tf32"
    set_math(wanted)
    return wanted


def ours(batch, images, labels, devices, kind, graph):
    """(step, loss, peak): a step of cpnet's net, the loss of the steps so far, MiB held at most."""
    from cpnet.gpu.devices import named
    from cpnet.gpu.graph import GraphStep
    from cpnet.gpu.memory import assign
    from cpnet.gpu.platform import gpus
    from cpnet.nets import build
    from cpnet.network import Network
    from cpnet.step import Step

    math(kind)
    table = build("alexnet")
    work = (GraphStep if graph else Step)(Network(table, named(devices, table.columns)))
    inputs = []  # where a graph reads them, so that it need not copy
    for name, values in ("images", np.ascontiguousarray(images.transpose(1, 2, 3, 0))), ("labels", labels.astype(np.int32)):
        inputs.append(work.network.rows[0].copies[0].buffer(name, values.shape, values.dtype))
        assign(inputs[-1], values)
    count = iter(range(1 << 31))

    def loss():
        total, _, steps = work.read()
        return total / max(steps, 1) / batch

    # CuPy's pool keeps what it has had, so what it holds is the most that there was.
    return (lambda rate: work(*inputs, step=next(count), rate=rate)), loss, (
        lambda: gpus().cupy.get_default_memory_pool().total_bytes() / 2**20)


def peer(name, images, labels, kind, rate):
    """The same with PyTorch."""
    import torch

    from bench.torch_net import TorchNet, fast_lrn, optimizer
    from cpnet.nets import build

    precision(kind)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    plus = name in ("graph", "compile+")
    layout = torch.channels_last if name in ("channels_last", "graph", "compile+") else torch.contiguous_format
    model = TorchNet(build("alexnet"), lrn=fast_lrn if plus else None).cuda().to(memory_format=layout)
    x, right = torch.from_numpy(images).cuda().to(memory_format=layout), torch.from_numpy(labels).cuda()
    rule = optimizer(model, rate, **({} if name == "eager" else {"fused": True}))
    net = torch.compile(model, mode="max-autotune") if name in AUTOTUNED else model
    # Autocast's cache of weights would outlive the capture that filled it.
    cast = torch.autocast("cuda", torch.bfloat16, enabled=kind == "bf16", cache_enabled=name != "graph")
    last = []

    def step():
        if name in AUTOTUNED:
            torch.compiler.cudagraph_mark_step_begin()
        with cast:
            loss = torch.nn.functional.cross_entropy(net(x), right)
        rule.zero_grad()
        loss.backward()
        rule.step()
        last[:] = [loss.detach()]

    if name == "graph":
        step = captured(step)
    return (lambda rate: step()), (lambda: last[0].item()), (lambda: torch.cuda.max_memory_reserved() / 2**20)


def captured(step):
    """PyTorch's recipe: a few steps on a side stream, then the capture."""
    import torch
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def clock(name):
    """A function that times `work()` by events, in ms, on the library's current stream."""
    if name.startswith("ours"):
        import cupy
        new, elapsed = cupy.cuda.Event, cupy.cuda.get_elapsed_time
    else:
        import torch
        new, elapsed = (lambda: torch.cuda.Event(enable_timing=True)), (lambda begin, end: begin.elapsed_time(end))

    def timed(work):
        begin, end = new(), new()
        begin.record()
        work()
        end.record()
        end.synchronize()
        return elapsed(begin, end)

    return timed


def turns(step, loss, peak, timed, rate):
    """A function that takes a turn: {"ms", "loss", "peak_mib"}."""
    def steps(count):
        for _ in range(count):
            step(rate)

    def turn():
        steps(WARM)
        return {"ms": timed(lambda: steps(STEPS)) / STEPS, "loss": loss(), "peak_mib": peak()}

    return turn
