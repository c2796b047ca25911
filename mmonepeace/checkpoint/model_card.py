"""README.md of a model that is shared: what its files say, and what its author says."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LIBRARY = "mmonepeace"
# Task of a predictor, and whether it sees images -> what hubs call it.
_PIPELINES: dict[Any, str] = {
    ("classify", True): "image-classification",
    ("classify", False): "audio-classification",
    ("answer", True): "visual-question-answering",
}


@dataclass(frozen=True)
class ModelCard:
    """What only the author of a model knows; what is left out is not on the card.

    Args:
        license: identifier, such as "apache-2.0".
        datasets: names of what it was trained on.
        metrics: names of what it was measured by.
        tags: besides "onepeace" and the modalities.
        pipeline_tag: what hubs sort models by; None takes that of the task, if it has one.
        text: Markdown that is put behind the title.
    """

    license: str | None = None
    datasets: Sequence[str] = ()
    metrics: Sequence[str] = ()
    tags: Sequence[str] = ()
    pipeline_tag: str | None = None
    text: str = ""


def card_text(
    card: ModelCard, title: str, config: Mapping[str, Any], meta: Mapping[str, str]
) -> str:
    """The Markdown of a card.

    Args:
        card: of the author.
        title: name of the model.
        config: see `pretrained.write_pretrained`.
        meta: metadata of the weights.
    """
    owner = config["class"]
    package = "mmonepeace.models" if owner == "OnePeace" else "mmonepeace.apis"
    use = (
        f"With {_LIBRARY}, of which version {config['mmonepeace_version']} wrote these files. NAME is the "
        "path of this folder, or `hf-hub:org/name` of its repository:\n\n```python\n"
        f'from {package} import {owner}\n\nmodel = {owner}.from_pretrained("NAME")\n```'
    )
    parts = [
        _header(card, config),
        f"# {title}",
        card.text.strip(),
        _facts(config),
        "## Use",
        use,
        "## Training",
        _training(meta, card),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _header(card: ModelCard, config: Mapping[str, Any]) -> str:
    """YAML, whose strings are those of JSON."""
    modalities = list(config["modalities"])
    pipeline = card.pipeline_tag or _PIPELINES.get((config.get("task"), "image" in modalities))
    if pipeline is None and "task" not in config:
        pipeline = "image-feature-extraction" if modalities == ["image"] else "feature-extraction"
    values = {
        "license": card.license,
        "library_name": _LIBRARY,
        "tags": list(dict.fromkeys(["onepeace", *modalities, *card.tags])),
        "pipeline_tag": pipeline,
        "datasets": list(card.datasets),
        "metrics": list(card.metrics),
    }
    lines = [
        f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value
    ]
    return "\n".join(["---", *lines, "---"])


def _facts(config: Mapping[str, Any]) -> str:
    arch, inputs = config["architecture"], config["preprocessing"]
    sizes = (
        f"{arch['depth']} blocks, width {arch['embed_dim']}, {arch['num_heads']} heads, "
        f"FFN {arch['ffn_dim']}"
    )
    rows = [
        ("class", f"`{config['class']}`"),
        ("parameters", f"{config['parameters']:,}"),
        ("dtype", config["dtype"]),
        ("encoder", sizes),
        ("inputs", ", ".join(_inputs(inputs))),
    ]
    if "task" in config:
        rows.append(("task", config["task"]))
    if config["classes"]:
        rows.append(("classes", f"{len(config['classes']):,}, named in `config.json`"))
    return _table(rows)


def _inputs(inputs: Mapping[str, Any]) -> Iterable[str]:
    for name, facts in inputs.items():
        match name:
            case "image":
                yield f"image ({facts['size']} x {facts['size']} pixels)"
            case "audio":
                yield f"audio ({facts['sampling_rate']:,} Hz, clips of {facts['clip_seconds']:g} s)"
            case "text":
                yield f"text (up to {facts['max_tokens']} tokens)"
            case _:
                yield name


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _training(meta: Mapping[str, str], card: ModelCard) -> str:
    known = {"run": "trained_run", "iterations": "trained_iterations"}
    rows = [(name, _cell(meta[key])) for name, key in known.items() if key in meta]
    if rows:
        return f"The checkpoint that the weights were loaded from:\n\n{_table(rows)}"
    if card.datasets:
        return f"Data sets: {', '.join(card.datasets)}."
    return "The files do not say what the weights were trained on."


def _cell(text: str) -> str:
    """A text from a file as one cell of a table, without markup."""
    return f"`{' '.join(text.replace('`', ' ').replace('|', ' ').split())}`"
