"""Print a net's layers as a table, and draw them."""
from cpnet import nets
from cpnet.gpu.devices import named
from cpnet.kinds import filename, positive
from cpnet.options import OF_NET, Parser, add_settings, net_settings
from cpnet.summary import summary


def main(words):
    parser = Parser("summary", "",
                    "Prints a net's layers: what each computes, its shapes, neurons, parameters and "
                    "multiply-adds, and which device holds which of its maps.",
                    "Example: python run.py summary --net alexnet --devices cpu,cpu --picture net.png")
    add_settings(parser, [dest for dest in OF_NET if dest != "net"])
    parser.add_argument("--net", default="alexnet", metavar="NET",
                        help=f"Prints this net: {', '.join(nets.NETS)}.")
    parser.add_argument("--classes", type=positive, metavar="N",
                        help="Tells N classes apart. Default: 1000, or 10 for small nets.")
    parser.add_argument("--image", metavar="C,H,W",
                        help="Looks at crops of so many channels, rows and columns of pixels. Default: "
                             "3,224,224, or 1,24,24 for small nets.")
    parser.add_argument("--devices", default="cpu", metavar="DEVICES",
                        help="Places the columns on these devices. Example: cpu,cpu.")
    parser.add_argument("--picture", type=filename, metavar="PNG", help="Draws the net, as figure 2.")
    options = parser.parse(words)
    name = options.net
    small = nets.look_up(name, nets.NETS, "net").smallest < nets.NETS["alexnet"].smallest
    try:
        text = options.image or ("1,24,24" if small else "3,224,224")
        channels, height, width = (int(part) for part in text.split(","))
    except ValueError:
        parser.error(f"--image {options.image}: give channels, height, width, such as 3,224,224")
    classes = options.classes or (10 if small else 1000)
    table = nets.build(name, (channels, height, width), classes, **net_settings(options))
    print(summary(table, named(options.devices, table.columns)))
    if options.picture:
        from cpnet.figures import draw_net  # loads Matplotlib
        draw_net(table, options.picture)
