"""Draw where an image is like a text, a sound or another image.

Run:  python tools/heatmap.py CKPT street.jpg --text sky --text "a red car" --out heatmap.png
      python tools/heatmap.py CKPT farm.jpg --audio rooster.ogg --image-size 512

Each panel shows the cosine of the query with each patch of the image. The colours of all panels
have one scale; its middle half is what most patches have, so look at differences, not at colours
alone.
"""

import argparse
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

from mmonepeace.apis.options import add_model_options, build_embedder, exit_code, printable
from mmonepeace.datasets import image_io
from mmonepeace.engine.preflight import PreflightError, find_checkpoint

