"""The pieces of the report's page: HTML from values.
Whatever comes from data is escaped here, and nothing else is HTML."""
import base64
import io
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

TEMPLATE = Path(__file__).with_name("report.html")
SIDE = 160  # pixels of the images shown; larger ones are scaled down, smaller ones are left to the browser


class Html(str):
    """Text that is HTML already."""


def html(value):
    """A value as HTML: text is escaped; the pieces of a list are joined."""
    if isinstance(value, list):
        return Html("".join(map(html, value)))
    return value if isinstance(value, Html) else Html(escape(str(value)))


def tag(name, *content, **attributes):
    """<name attributes>content</name>. Of content, what is no Html is escaped. Of attributes, None is left
    out; `class_` is class, `aria_label` aria-label."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
                    for key, value in attributes.items()
                    if value is not None)
    return Html(f"<{name}{given}>" if name == "img" else f"<{name}{given}>{html(list(content))}</{name}>")


def abreast(*content):
    """Side by side where there is room."""
    return tag("div", *content, class_="abreast")


def page(title, lead, parts):
    """The whole page. lead: Html below the title; parts: [(id, heading, content)], content a list of Html."""
    contents = tag("ul", *(tag("li", tag("a", heading, href=f"#{name}")) for name, heading, _ in parts))
    sections = (tag("section", tag("h2", heading, id=f"{name}-heading"), *content, id=name,
                    aria_labelledby=f"{name}-heading")
                for name, heading, content in parts)
    return Template(TEMPLATE.read_text("utf-8")).substitute(
        title=html(title), lead=lead, contents=contents, sections=Html("\n".join(sections)))


def pairs(rows):
    """A list of terms and what is said of them: [(term, text)]."""
    return tag("dl", *(tag("div", tag("dt", term), tag("dd", text)) for term, text in rows))


def table(caption, header, rows, numbers=(), total=False):
    """A table in a box of its own, in which it scrolls where it is too wide. numbers: the columns aligned to
    the right; total: the last row is one. A row of one text heads those below it."""
    kinds = ["number" if at in numbers else None for at in range(len(header))]

    def line(at, row):
        if len(row) == 1:
            return tag("tr", tag("th", row[0], scope="colgroup", colspan=len(header)), class_="group")
        cells = (tag("td", cell, class_=kind) for cell, kind in zip(row[1:], kinds[1:], strict=True))
        return tag("tr", tag("th", row[0], scope="row"), *cells,
                   class_="total" if total and at == len(rows) - 1 else None)

    head = tag("tr", *(tag("th", cell, scope="col", class_=kind)
                       for cell, kind in zip(header, kinds, strict=True)))
    whole = tag("table", tag("caption", caption), tag("thead", head),
                tag("tbody", *map(line, range(len(rows)), rows)))
    return tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)


def picture(content, kind, alt, caption="", size=None):
    """An image file's bytes as a figure. kind: svg+xml, png or jpeg. alt: what is to be seen, for those who
    do not see it. size: a class of report.html: "wide", "half", "filters" or "confusion"."""
    said = [tag("figcaption", caption)] if caption else []
    return tag("figure", tag("div", image(content, kind, alt), class_="scroll"), *said, class_=size)


def image(content, kind, alt):
    """An image file's bytes as <img>."""
    return tag("img", src=f"data:image/{kind};base64,{base64.b64encode(content).decode()}", alt=alt)


def pixels(array, alt):
    """An image uint8 (C, H, W), grey or RGB, as <img>:
    small ones exactly, large ones scaled down and as JPEG."""
    shown, file = Image.fromarray(array.transpose(1, 2, 0).squeeze()), io.BytesIO()
    kind = "png" if max(shown.size) <= SIDE // 2 else "jpeg"
    shown.thumbnail((SIDE, SIDE))
    shown.save(file, kind, quality=85)
    return image(file.getvalue(), kind, alt)


def png(array):
    """An RGB image uint8 (height, width, 3) as a PNG file's bytes."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png", optimize=True)
    return file.getvalue()


def prediction(array, label, probabilities, classes, what, top=5):
    """Figure 4, left: an image uint8 (C, H, W), its label, and the `top` most probable classes, the right
    one's bar in red. probabilities (classes,); `what` says which image it is."""
    bars = []
    for k in np.argsort(-probabilities, kind="stable")[:top]:
        share = f"{probabilities[k]:.1%}"
        bar = tag("span", class_="bar", style=f"width:{share}", aria_hidden="true")
        bars.append(tag("li", bar, tag("span", first_name(classes[k]), class_="name"),
                        tag("span", share, class_="share"), class_="right" if k == label else None))
    name = first_name(classes[label])
    return tag("li", pixels(array, f"{what}: {name}"), tag("div", tag("b", name), tag("ol", *bars)),
               class_="card")


def alike(query, near, classes, what):
    """Figure 4, right: the query (image, label) and the images near it [(image, label)], nearest first."""
    def shown(image, label, alt, kind=None):
        name = first_name(classes[label])
        return tag("li", pixels(image, f"{alt}: {name}"), tag("span", name), class_=kind)

    images = [shown(image, label, f"nearest, number {place}", "other" if label != query[1] else None)
              for place, (image, label) in enumerate(near, 1)]
    return tag("ul", shown(*query, what, "query"), *images, class_="alike")


def first_name(name):
    """The first of a class's names: ImageNet's have several."""
    return name.split(",")[0]
