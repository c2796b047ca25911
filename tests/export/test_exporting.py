"""Exported files equal PyTorch at sizes that were not traced, without this package."""

import copy
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.registry import DefaultScope
from torch.utils.flop_counter import FlopCounterMode

from mmonepeace import export
from mmonepeace.commands.export import main
from mmonepeace.models import OnePeace, OnePeaceClassifier, OnePeaceRetriever
from mmonepeace.registry import MODELS
from tests.apis.conftest import AUDIO
from tests.conftest import TINY, randomise

ARCH = TINY | {"depth": 1}
ALONE = """
import sys
sys.modules["mmonepeace"] = None  # importing it is an error
import numpy as np
path, inputs, outputs = sys.argv[1:]
given = dict(np.load(inputs))
if path.endswith(".onnx"):
    import onnxruntime
    (out,) = onnxruntime.InferenceSession(path).run(None, given)
else:
    import torch
    module = torch.export.load(path).module()
    out = module(*map(torch.from_numpy, given.values())).detach().numpy()
np.save(outputs, out)
"""


def retriever():
    torch.manual_seed(0)
    modalities = {"text": {"vocab_size": 60, "num_buckets": 8}, "image": {}, "audio": AUDIO}
    backbone = dict(arch=ARCH, modalities=modalities, img_size=64, final_norm=True)
    return randomise(OnePeaceRetriever(backbone)).eval()


def segmentor():
    torch.manual_seed(0)
    head = dict(
        type="mmonepeace.UPerHead", in_channels=[8, 16, 32], in_index=[0, 1, 2], channels=8,
        num_classes=3, norm_cfg=dict(type="BN"), align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss"),
    )  # fmt: skip
    backbone = dict(
        type="mmonepeace.OnePeace", arch=ARCH | {"stem": "overlapping"}, img_size=64,
        stem_maps=True, out_indices=[0],
    )  # fmt: skip
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(
            dict(type="mmonepeace.EncoderDecoder", backbone=backbone, decode_head=head)
        )
    return randomise(model).eval()


@pytest.fixture
def onnxruntime():
    pytest.importorskip("onnxscript")
    return pytest.importorskip("onnxruntime")


def run_alone(path, graph, lengths, folder):
    """Outputs of a file in a process without this package, and those of PyTorch."""
    numpy = pytest.importorskip("numpy")
    inputs = graph.draw(lengths, torch.Generator().manual_seed(1))
    names = [each.name for each in graph.inputs]
    numpy.savez(folder / "in.npz", **dict(zip(names, (x.numpy() for x in inputs), strict=True)))
    command = [sys.executable, "-c", ALONE, path, folder / "in.npz", folder / "out.npy"]
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env={}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        return torch.from_numpy(numpy.load(folder / "out.npy")), graph.module(*inputs)


def check_sizes(graph, path, sizes):
    """A file equals PyTorch at these lengths."""
    from mmonepeace.export.measuring import _onnx_runner, _torch_runner

    run, _ = (_onnx_runner if path.suffix == ".onnx" else _torch_runner)(path)
    for lengths in sizes:
        inputs = graph.draw(lengths, torch.Generator().manual_seed(1))
        with torch.no_grad():
            torch.testing.assert_close(run(inputs), graph.module(*inputs), rtol=1e-4, atol=1e-5)


def images(batch, height, width):
    return dict(batch=batch, height=height, width=width)


def test_an_image_encoder_in_onnx_takes_all_sizes(onnxruntime, tmp_path):
    graph, path = export.encoder_graph(retriever(), "image", (96, 160)), tmp_path / "image.onnx"
    dynamic = ["batch", "height", "width"]
    export.export_onnx(graph, path, dynamic)
    sizes = [(1, 32, 32), (3, 64, 64), (2, 48, 304), (1, 240, 32), (1, 96, 160)]
    check_sizes(graph, path, [images(*size) for size in sizes])
    got, expected = run_alone(path, graph, images(3, 64, 112), tmp_path)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    meta = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map["mmonepeace"]
    assert json.loads(meta)["axes"]["height"] == {"min": 32, "max": 2048, "multiple_of": 16}
    measured = export.measure(graph, graph.module, path, dynamic, 3)
    assert measured.largest_difference < 1e-4
    assert measured.left_out == ["text branch", "audio branch"]


def test_texts_of_all_lengths_and_eager_passes_after_an_export(tmp_path):
    model = retriever()
    ids = torch.tensor([[5, 6, 7, 2], [5, 2, 1, 1]])
    pictures = torch.randn(2, 3, 80, 48)

    def gradients(model):
        model.zero_grad()
        out = model({"text": (ids, None), "image": pictures})
        (out["text"] * out["image"]).sum().square().backward()
        return out | {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}

    before = gradients(copy.deepcopy(model))
    graph, path = export.encoder_graph(copy.deepcopy(model), "text"), tmp_path / "text.pt2"
    export.export_torch(graph, path, ["batch", "tokens"])
    export.exporting.trace(export.encoder_graph(copy.deepcopy(model), "image", (80, 48)), [])
    torch.testing.assert_close(gradients(model), before)
    check_sizes(graph, path, [dict(batch=b, tokens=t) for b, t in ((1, 2), (3, 9), (2, 300))])
    got, expected = run_alone(path, graph, dict(batch=3, tokens=20), tmp_path)
    torch.testing.assert_close(got, expected)


def test_audio_clips_of_all_lengths(tmp_path):
    graph, path = export.encoder_graph(retriever(), "audio"), tmp_path / "audio.pt2"
    graph.axes["samples"] = replace(graph.axes["samples"], length=17_000)
    export.export_torch(graph, path, ["batch", "samples"])
    sizes = (1, 16_000), (3, 16_080), (2, 16_400), (1, 327_680)
    check_sizes(graph, path, [dict(batch=b, samples=s) for b, s in sizes])


@pytest.mark.parametrize(
    ("second", "options", "head"),
    [
        ("image", {}, dict(num_classes=3)),
        ("audio", dict(num_candidates=2), dict(num_classes=1)),
    ],
)
def test_a_classifier_of_two_modalities_takes_all_batches(second, options, head, tmp_path):
    modalities = {"text": {"vocab_size": 60, "num_buckets": 8}, "image": {}, "audio": AUDIO}
    modalities = {name: modalities[name] for name in ("text", second)}
    torch.manual_seed(0)
    backbone = dict(arch=ARCH, modalities=modalities, img_size=32)
    model = randomise(OnePeaceClassifier(backbone, head, "text", **options)).eval()
    graph, path = export.classifier_graph(model), tmp_path / "questions.pt2"
    if second == "audio":
        graph.axes["samples"] = replace(graph.axes["samples"], length=17_000)
    export.export_torch(graph, path, ["batch", "tokens"])
    check_sizes(
        graph, path, [graph.lengths() | dict(batch=b, tokens=t) for b, t in ((1, 2), (3, 9))]
    )


class Pyramid(torch.nn.Module):
    """The pooled part of a head alone: exporting a segmentor for all sizes takes a minute."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, x):
        return self.head.psp_forward([x])


def test_the_pyramid_of_a_segmentor_is_pooled_at_every_size(onnxruntime, tmp_path):
    module = Pyramid(segmentor().decode_head)
    path = tmp_path / "pyramid.onnx"
    rows, columns = (torch.export.Dim(name, min=2, max=128) for name in ("rows", "columns"))
    program = torch.export.export(
        module, (torch.randn(2, 32, 7, 11),), dynamic_shapes=({2: rows, 3: columns},)
    )
    torch.onnx.export(program, dynamo=True, verbose=False).save(path, external_data=False)
    session = onnxruntime.InferenceSession(path)
    for size in ((4, 4), (2, 30), (5, 3), (13, 6), (64, 17)):
        x = torch.randn(2, 32, *size)
        with torch.no_grad():
            expected = module(x)
        (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(got), expected, rtol=1e-4, atol=1e-4)


def test_a_segmentor_and_its_left_out_head(tmp_path):
    model, path = segmentor(), tmp_path / "segmentor.pt2"
    model.auxiliary_head = torch.nn.Linear(1, 1)
    graph = export.segmentor_graph(model, (48, 80))
    export.export_torch(graph, path)
    got, expected = run_alone(path, graph, graph.lengths(), tmp_path)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert graph.left_out == ["auxiliary head"]
    model.decode_head = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="Linear has no logits of each pixel"):
        export.segmentor_graph(model)


def test_a_fixed_size_may_be_any():
    graph = export.encoder_graph(retriever(), "image", (16, 32))
    program = export.exporting.trace(graph, [])
    inputs = graph.draw(graph.lengths(), torch.Generator())
    with torch.no_grad():
        torch.testing.assert_close(program.module()(*inputs), graph.module(*inputs))
    with pytest.raises(
        ValueError, match="height is 16; a file with dynamic sizes takes 32 to 2048"
    ):
        export.exporting.trace(graph, ["height", "width"])


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("size", [(64, 64), (96, 80)])
def test_models_are_traced_and_counted(size):
    pictures = torch.randn(1, 3, *size)
    backbone = OnePeace(ARCH, img_size=64).eval()
    with torch.no_grad():
        traced = torch.jit.trace(backbone, pictures)
        torch.testing.assert_close(traced(pictures), backbone(pictures))
    for model in (backbone, segmentor()):
        counted = get_model_complexity_info(model, inputs=(pictures,), show_table=False)
        assert counted["flops"] > 0
        assert counted["params"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["out.pt2", "--to", "onnx"], "expected a file that ends with .onnx"),
        (["out.pt2", "--to", "torch", "--dtype", "int8"], "it needs --to onnx"),
        (["out.pt2", "--to", "torch", "--dynamic", "size,depth"], "expected batch,size"),
    ],
)
def test_wrong_options_are_refused(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mmonepeace export", "model.safetensors", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert said in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("mmonepeace.export.exporting.find_spec", lambda name: name != "onnx")
    with pytest.raises(ValueError, match=r"needs onnx, missing here: pip install -e .\[export\]"):
        export.check_packages()


def test_drawn_clips_fill_their_batch_as_texts_do():
    """Differences and speed are those of real lengths, not of a batch that is padding."""
    graph = export.encoder_graph(retriever(), "audio")
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        waves, lengths = graph.draw(dict(batch=4, samples=50_000), generator)
        assert waves.shape == (4, 50_000)
        assert lengths[0] == 50_000
        assert (lengths >= 8_000).all()
        assert (lengths <= 50_000).all()


@pytest.mark.parametrize("modality", ["text", "image", "audio"])
def test_files_compute_as_much_as_pytorch(modality):
    """Counted are matrix products outside of attention, of an input without padding."""
    graph = export.encoder_graph(retriever(), modality)
    # Of more samples PyTorch computes attention in blocks, which the counter sees.
    lengths = graph.lengths() | {"batch": 1, "samples": 80_000}
    inputs = graph.draw(lengths, torch.Generator().manual_seed(0))
    with torch.no_grad():
        exported = torch.export.export(graph.module, inputs).module()
        counts = []
        for module in (graph.module, exported):
            with FlopCounterMode(display=False) as counter:
                module(*inputs)
            counts.append(counter.get_total_flops())
    eager, file = counts
    assert 0.9 * eager < file < 1.1 * eager
