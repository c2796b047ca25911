"""What a model can do for a page: fields of a form in, markup out.

Values of fields are bytes of image and audio files, texts, and what was chosen; a field that was left
empty is missing. All that comes from users, files or models is escaped.
"""

import base64
import io
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from PIL import Image

from mmonepeace import apis, visualization
from mmonepeace.apis.dense_prediction import predict_dense
from mmonepeace.datasets import image_io
from mmonepeace.visualization.gallery import Entry, draw_card, draw_pixels
from mmonepeace.visualization.prediction_page import draw_answers, with_box
from mmonepeace.visualization.predictions import paint

ANY = "any"
MODALITIES = ("image", "text", "audio")
MOST_RESULTS = 100
SHOWN_PIXELS = 1600  # longer side of a segmented image in the page
LEAST_SHARE = 0.0005  # of the image; a smaller one would read 0.0 %


class Field(NamedTuple):
    """A field of a form."""

    name: str
    kind: Literal["image", "audio", "text", "lines", "choice", "count"]
    label: str
    required: bool = True
    options: Sequence[str] = ()  # of a choice, the first is the default
    default: str = ""


class Ability(ABC):
    """Something that a model can do.

    Attributes:
        title: what it is called, a few words.
        label: which model does it.
        verb: what the button says.
        fields: what it takes.
    """

    title: str
    verb: str

    def __init__(self, label: str, fields: Sequence[Field]) -> None:
        self.label = label
        self.fields = tuple(fields)

    @abstractmethod
    def run(self, values: Mapping[str, Any]) -> str:
        """The result as markup; a ValueError says what is wrong with the values."""


class Search(Ability):
    """Finds what in an index is nearest to texts, images and sounds, or to all of them at once."""

    title, verb = "Search", "Search"

    def __init__(self, label: str, index: apis.EmbeddingIndex, embedder: apis.Embedder) -> None:
        kinds: dict[str, Literal["image", "audio", "text"]] = {
            "text": "text",
            "image": "image",
            "audio": "audio",
        }
        names = {"text": "Text", "image": "Image", "audio": "Sound"}
        branches = branches_of(embedder)
        held = [name for name in MODALITIES if index.count(name)]
        fields = [Field(n, kinds[n], names[n], False) for n in kinds if n in branches]
        fields += [
            Field("among", "choice", "Find", options=[ANY, *held]),
            Field("top_k", "count", "Results", default="12"),
        ]
        super().__init__(label, fields)
        self.embedder = embedder
        self.views = {ANY: index} | {name: index.select(name) for name in held}

    def find(self, values: Mapping[str, Any]) -> list[tuple[float, int]]:
        """Cosines, and rows among the chosen items, the best first."""
        parts = [
            self.embedder.encode(name, [values[name]])[0] for name in MODALITIES if name in values
        ]
        if not parts:
            raise ValueError("nothing to search for: type a text, or choose a file.")
        view = self.views[values["among"]]
        scores, rows = apis.search(np.asarray(apis.combine(*parts)), view, values["top_k"])
        return [(float(s), int(r)) for s, r in zip(scores[0], rows[0], strict=True)]

    def file(self, among: str, row: int) -> Path | None:
        """The file of an item by its row; None if there is no such item, or it is a text."""
        view = self.views.get(among)
        if view is None or row >= len(view.items):
            return None
        content = view.content(view.items[row])
        return content if isinstance(content, Path) else None

    def run(self, values: Mapping[str, Any]) -> str:
        """Cards, as those of `mmonepeace search --html`."""
        found, among = self.find(values), values["among"]
        view = self.views[among]
        cards = []
        for rank, (score, row) in enumerate(found, 1):
            item = view.items[row]
            entry = Entry(score, item["modality"], view.content(item))
            cards.append(draw_card(rank, entry, found[0][0], partial(_address, among, row)))
        return f'<ol class="results">{"".join(cards)}</ol>'


def _address(among: str, row: int, _: Path) -> str:
    return f"/item/{among}/{row}"


class HeatMap(Ability):
    """Shows where an image is like texts, or like a sound."""

    title, verb = "Heat map", "Draw"

    def __init__(self, label: str, embedder: apis.Embedder) -> None:
        fields = [Field("image", "image", "Image")]
        fields += [Field("texts", "lines", "Texts, a line each", False)]
        if "audio" in branches_of(embedder):
            fields += [Field("audio", "audio", "Sound", False)]
        super().__init__(label, fields)
        self.embedder = embedder

    def maps(self, values: Mapping[str, Any]) -> tuple[np.ndarray, list[str]]:
        """(Q, H, W) cosines, and what each is of."""
        texts = values.get("texts", [])
        queries = [self.embedder.encode_text([text])[0] for text in texts]
        if "audio" in values:
            queries += [self.embedder.encode_audio([values["audio"]])[0]]
        if not queries:
            raise ValueError("nothing to look for: type a text, or choose a sound.")
        maps = np.asarray(self.embedder.heat_maps(values["image"], np.stack(queries)))
        return maps, [*texts, *(["sound"] if "audio" in values else [])]

    def run(self, values: Mapping[str, Any]) -> str:
        """The drawing and the table of `mmonepeace heatmap`."""
        maps, names = self.maps(values)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "map.png")
            visualization.draw_heat_maps(path, values["image"], maps, names)
            drawing = path.read_bytes()
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{low:.3f}</td><td>{high:.3f}</td>"
            f"<td>x {x}, y {y}</td></tr>"
            for name, (low, high, x, y) in zip(names, visualization.extremes(maps), strict=True)
        )
        return (
            f'<img class="drawing" src="{_data(drawing)}" alt="heat maps">'
            "<table><thead><tr><th>query</th><th>lowest</th><th>highest</th><th>at pixel</th></tr>"
            f"</thead><tbody>{rows}</tbody></table>"
        )


class Segment(Ability):
    """Says what class each pixel of an image is of."""

    title, verb = "Segment", "Segment"

    def __init__(self, label: str, model: Any, metainfo: Mapping[str, Any]) -> None:
        super().__init__(label, [Field("image", "image", "Image")])
        self.model = model
        self.classes = list(metainfo["classes"])
        palette = metainfo.get("palette")
        self.colours = visualization.class_colours(palette, len(self.classes))

    def labels(self, values: Mapping[str, Any]) -> np.ndarray:
        """(H, W) classes of the pixels of the image."""
        with tempfile.TemporaryDirectory() as folder:
            # The pipeline of a recipe reads files, and fewer formats than the page takes.
            path = Path(folder, "image.png")
            image_io.to_rgb(values["image"]).save(path, compress_level=1)
            (result,) = predict_dense(self.model, [str(path)])
        labels: np.ndarray = result.pred_sem_seg.data[0].cpu().numpy()
        return labels

    def shares(self, labels_HW: np.ndarray) -> list[tuple[int, float]]:
        """Classes that there are with their shares of the pixels, the largest first."""
        found, counts = np.unique(labels_HW, return_counts=True)
        shares = zip(found.tolist(), (counts / labels_HW.size).tolist(), strict=True)
        return sorted(shares, key=lambda pair: -pair[1])

    def run(self, values: Mapping[str, Any]) -> str:
        """Two images on each other, a slider for the opacity of the upper one, a legend."""
        labels = self.labels(values)
        image = image_io.to_rgb(values["image"]).copy()
        image.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
        painted = Image.fromarray(paint(labels, self.colours))
        painted = painted.resize(image.size, Image.Resampling.NEAREST)
        legend = "".join(
            f'<li><i style="background:rgb({" ".join(map(str, self.colours[label]))})"></i>'
            f"<span>{escape(self.classes[label])}</span><b>{share:.1%}</b></li>"
            for label, share in self.shares(labels)
            if label < len(self.classes) and share >= LEAST_SHARE
        )
        return (
            '<div class="layers"><div class="stack">'
            f'<img src="{_picture(image)}" width="{image.width}" height="{image.height}" '
            'alt="the image">'
            f'<img class="mask" src="{_picture(painted)}" alt="its classes in colours"></div>'
            '<label class="opacity">Opacity of the classes '
            '<input type="range" min="0" max="100" value="50"></label></div>'
            f'<ul class="legend">{legend}</ul>'
        )


class Ask(Ability):
    """What `Predictor` says: classes, answers, boxes."""

    titles: ClassVar[dict[str, tuple[str, str]]] = {
        "classify": ("Classify", "Classify"),
        "answer": ("Answer a question", "Ask"),
        "ground": ("Find a phrase", "Find"),
        "compare": ("Compare two images", "Compare"),
    }

    def __init__(self, label: str, predictor: apis.Predictor) -> None:
        self.predictor = predictor
        task, inputs = predictor.task, predictor.inputs
        asked = {"answer": "Question", "ground": "Phrase", "compare": "Statement"}
        self.wanted = predictor.model.num_candidates
        fields = []
        if "image" in inputs:
            fields += [Field("image", "image", "Left image" if task == "compare" else "Image")]
        if "image_2" in inputs:
            fields += [Field("image_2", "image", "Right image")]
        if "audio" in inputs:
            fields += [Field("audio", "audio", "Sound")]
        if "text" in inputs:
            fields += [Field("text", "text", asked.get(task, "Text"))]
        if self.wanted > 1:
            fields += [Field("candidates", "lines", f"{self.wanted} possible answers, a line each")]
        if task in ("classify", "answer"):
            fields += [Field("top_k", "count", "Results", default="5")]
        super().__init__(label, fields)
        self.title, self.verb = self.titles[task]

    def answers(self, values: Mapping[str, Any]) -> list[apis.Prediction]:
        """The best classes or answers."""
        task = self.predictor.task
        image, audio = ([values[n]] if n in values else None for n in ("image", "audio"))
        if task == "classify":
            return self.predictor.classify(image, audio, values["top_k"])[0]
        if task == "compare":
            given = image or [], [values["image_2"]], [values["text"]]
            return self.predictor.compare(*given)[0]
        candidates = None
        if self.wanted > 1:
            candidates = [values["candidates"]]
            if len(candidates[0]) != self.wanted:
                raise ValueError(
                    f"{len(candidates[0])} possible answers, the model ranks {self.wanted}: write "
                    "as many lines."
                )
        top_k = values["top_k"]
        return self.predictor.answer([values["text"]], image, audio, candidates, top_k)[0]

    def box(self, values: Mapping[str, Any]) -> list[float]:
        """The corners x0, y0, x1, y1 of what the phrase names, in pixels."""
        box: list[float] = self.predictor.ground([values["image"]], [values["text"]])[0].tolist()
        return box

    def run(self, values: Mapping[str, Any]) -> str:
        """Labels with bars, or the image with the box."""
        if self.predictor.task != "ground":
            return f'<div class="said">{draw_answers(self.answers(values))}</div>'
        box = self.box(values)
        drawn = draw_pixels(with_box(image_io.to_rgb(values["image"]), box), values["text"])
        corners = ", ".join(f"{x:.1f}" for x in box)
        return f'<div class="found">{drawn}</div><p class="of">x0, y0, x1, y1: {corners}</p>'


def branches_of(embedder: apis.Embedder) -> tuple[str, ...]:
    """The modalities that queries can have: text needs a tokenizer."""
    return tuple(
        name
        for name in embedder.model.projections
        if name != "text" or embedder.reader.tokenizer is not None
    )


def _data(png: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(png).decode()}"


def _picture(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=3)
    return _data(file.getvalue())
