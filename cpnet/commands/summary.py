"""A net's layers, as a table or a picture."""
from cpnet import nets
from cpnet.figures import draw_net
from cpnet.gpu.devices import named
from cpnet.kinds import positive
from cpnet.options import Parser, net_options, net_settings
from cpnet.summary import summary


def main(words):
    parser = Parser(prog="run.py summary", description="a net's layers: shapes, neurons, parameters, multiply-adds, places")
    net_options(parser, parser)
    parser.add_argument("--classes", type=positive, help="(default: 1000; 10 for small nets)")
    parser.add_argument("--image", default=None, metavar="C,H,W", help="of a crop (default: 3,224,224; for small nets 1,24,24)")
    parser.add_argument("--devices", default="cpu", help="where to place the columns")
    parser.add_argument("--picture", metavar="PNG", help="draw the net as in figure 2")
    options = parser.parse(words)
    name = options.net or "alexnet"
    small = nets.choose(name, nets.NETS, "net").smallest < nets.NETS["alexnet"].smallest
    try:
        image = tuple(int(part) for part in (options.image or ("1,24,24" if small else "3,224,224")).split(","))
        channels, height, width = image
    except ValueError:
        parser.error(f"--image {options.image}: give channels, height, width, such as 3,224,224")
    classes = options.classes or (10 if small else 1000)
    table = nets.build(name, (channels, height, width), classes, **net_settings(options))
    print(summary(table, named(options.devices, table.columns)))
    if options.picture:
        draw_net(table, options.picture)
