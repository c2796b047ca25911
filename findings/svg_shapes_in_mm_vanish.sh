#!/bin/sh
# resvg_py leaves out of an SVG whatever is measured in mm, cm, in, pt or pc, without a word.
#
# One would guess: 1 inch is 96 px, as CSS says and as browsers and the resvg program have it, and
# dpi=0, "SVG default" in the documentation, means that.
# What happens: with the default, an inch has 0 px. Shapes and strokes with such lengths vanish; if
# the width or height of the document is one, an error says that the SVG "has an invalid size". With
# dpi=96 all are drawn. Lengths in px, em, % and without a unit are right either way.
# Who meets it: whoever renders clip art or emoji with it: Inkscape writes documents in mm, and
# other programs write strokes and texts in pt. A script that skips broken files skips good ones,
# and nobody notices a picture that lacks a part.
# Versions: resvg_py 0.5.0, Pillow 12.0.0, numpy 2.2.6; seen on 2026-11-29.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q resvg_py==0.5.0 Pillow==12.0.0 numpy==2.2.6
"$folder/venv/bin/python" - > "$folder/seen" <<'PYTHON'
import io

import numpy as np
import resvg_py
from PIL import Image


def render(size, shape, **options):
    svg = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{size}" '
           f'viewBox="0 0 96 96">{shape}</svg>')
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, **options))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))[..., 3] > 0


for length in ("48px", "48", "3em", "50%", "12.7mm", "1.27cm", "0.5in", "36pt", "3pc"):
    square = f'<rect width="{length}" height="{length}"/>'
    stroke = f'<path d="M0 48H96" stroke="black" stroke-width="{length}"/>'
    shares = [
        f"{render('96px', shape, **options).mean():.2f}"
        for shape in (square, stroke) for options in ({}, {"dpi": 96})]
    print(f"{length}: square {shares[0]}, with dpi=96 {shares[1]}; "
          f"stroke {shares[2]}, with dpi=96 {shares[3]}")
for options in ({}, {"dpi": 96}):
    try:
        print("document of 1in,", options, render("1in", "<path/>", **options).shape)
    except ValueError as error:
        print("document of 1in,", options, "ValueError:", error)
PYTHON
cat "$folder/seen"
cat > "$folder/expected" <<'SEEN'
48px: square 0.25, with dpi=96 0.25; stroke 0.50, with dpi=96 0.50
48: square 0.25, with dpi=96 0.25; stroke 0.50, with dpi=96 0.50
3em: square 0.25, with dpi=96 0.25; stroke 0.50, with dpi=96 0.50
50%: square 0.25, with dpi=96 0.25; stroke 0.50, with dpi=96 0.50
12.7mm: square 0.00, with dpi=96 0.25; stroke 0.00, with dpi=96 0.50
1.27cm: square 0.00, with dpi=96 0.25; stroke 0.00, with dpi=96 0.50
0.5in: square 0.00, with dpi=96 0.25; stroke 0.00, with dpi=96 0.50
36pt: square 0.00, with dpi=96 0.25; stroke 0.00, with dpi=96 0.50
3pc: square 0.00, with dpi=96 0.25; stroke 0.00, with dpi=96 0.50
document of 1in, {} ValueError: SVG has an invalid size
document of 1in, {'dpi': 96} (96, 96)
SEEN
diff "$folder/expected" "$folder/seen" && echo "as expected"
