"""A net as a table to read: what each layer is, what it costs, and which device holds which of its maps."""
from math import prod

from cpnet import layers

HEADER = ["layer", "kind", "reads", "output", "neurons", "parameters", "multiply-adds"]
NUMBERS = 4, 5, 6  # the columns of text that are aligned to the right


def summary(table, devices):
    """The Table `table` placed on `devices` as text:
    a line for each layer, the totals, and what each device holds."""
    title = (f"{table.settings['name']}, profile {table.settings['profile']}: images of "
             f"{'×'.join(map(str, table.image))}, {table.settings['classes']:,} classes")
    return "\n".join([title, "", *_aligned(rows(table)), "", *_devices(table, devices)])


def rows(table):
    """The table as texts: a header, a row for each layer, the totals."""
    lines = [[*HEADER, *(f"column {column}" for column in range(1, table.columns + 1))]]
    for layer, shape, out in table.shapes():
        costs = _costs(layer, shape, out, table.columns)
        lines.append([layer.name, kind(layer), layer.reads if costs[1] or layer.reads == "all" else "",
                      "×".join(map(str, out)),
                      *(f"{cost:,}" if cost else "" for cost in costs), *_maps(layer, out, table.columns)])
    return [*lines, ["total", "", "", "", *(f"{total:,}" for total in totals(table)), *[""] * table.columns]]


def totals(table):
    """(neurons, parameters, multiply-adds of one image's forward pass) of the whole net."""
    costs = [_costs(layer, shape, out, table.columns) for layer, shape, out in table.shapes()]
    return tuple(map(sum, zip(*costs, strict=True)))


def kind(layer):
    """What a layer does, in a few words."""
    match layer:
        case layers.Conv():
            pads = layer.pad if isinstance(layer.pad, tuple) else (layer.pad, layer.pad)
            stride = f", stride {layer.stride}" if layer.stride > 1 else ""
            pad = f", pad {pads[0]}" if pads[0] == pads[1] else f", pad {pads[0]}+{pads[1]}"
            return f"conv {layer.size}×{layer.size}{stride}{pad if any(pads) else ''}"
        case layers.Linear():
            return "fully connected"
        case layers.LRN():
            return f"normalize {layer.n} maps, α {layer.alpha:g}"
        case layers.Pool():
            kind = "max" if isinstance(layer, layers.MaxPool) else "average"
            return f"{kind} pool {layer.z}×{layer.z}, stride {layer.s}"
        case layers.Dropout():
            return f"drop {layer.rate:.0%}"
    return type(layer).__name__


def _costs(layer, shape, out, columns):
    """(neurons, parameters, multiply-adds).
    A layer without parameters acts on the neurons of the one below."""
    parameters = sum(prod(parameter.shape) for parameter in layer.parameters(shape, columns).values())
    return prod(out) if parameters else 0, parameters, layer.multiply_adds(shape, columns)


def _maps(layer, out, columns):
    """For each column the numbers of its maps or features, counted from 0."""
    if layer.undivided:
        return [f"0–{out[0] - 1}", *["–"] * (columns - 1)]
    each = out[0] // columns
    return [f"{first}–{first + each - 1}" for first in range(0, out[0], each)]


def _aligned(rows):
    """Lines of equal columns, a rule under the header and over the totals."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) if at in NUMBERS else cell.ljust(width)
                       for at, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
             for row in rows]
    rule = "─" * max(map(len, lines))
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]


def _devices(table, devices):
    """A line for each device: its columns and how many parameters it holds."""
    each = table.columns // len(devices)
    for d, device in enumerate(devices):
        own = [str(column + 1) for column in range(d * each, (d + 1) * each)]
        held = sum(_costs(layer, shape, out, table.columns)[1] // (1 if layer.undivided else len(devices))
                   for layer, shape, out in table.shapes() if d == 0 or not layer.undivided)
        whole = [f", the whole of {layer.name}" for layer in table.layers if layer.undivided and d == 0
                 and table.columns > 1]
        yield (f"device {d} ({device.name}): column{'s' * (each > 1)} {' and '.join(own)}{''.join(whole)}; "
               f"{held:,} parameters")
