#!/bin/sh
# With transformers 5 installed, mmpretrain's models cannot be imported; without it they can.
#
# One would guess: transformers is an optional dependency of mmpretrain, which guards its import, so
# that a version that it does not know costs the models for language alone, as its absence does.
# What happens: without transformers, and with 4.57, `import mmpretrain.models` works. With 5 a name
# that one module imports is gone: the guard takes the package for missing and sets its classes to
# None, while other code asks whether the package is installed, and derives from one of them:
# TypeError: NoneType takes no arguments. So image classifiers fail through a package that they do not use.
# Who meets it: whoever installs anything that brings the newest transformers (peft, sentence-transformers,
# gradio by way of huggingface_hub) into an environment with mmpretrain.
# Versions: onedl-mmpretrain 1.3.6 (a fork of mmpretrain), transformers 4.57.6 and 5.24.0; seen on 2026-11-30.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" install -q "$@"; }
pip torch==2.13.0 torchvision==0.28.0 onedl-mmengine==0.10.12 numpy==2.4.6 setuptools==81.0.0 \
    einops==0.8.2 modelindex==0.0.2 mat4py==0.6.0 rich==15.0.0 matplotlib==3.11.2
pip --no-deps --no-build-isolation onedl-mmcv==2.3.6 onedl-mmpretrain==1.3.6
pip opencv-python-headless==5.0.0.93 ordered-set==4.1.0 model-index==0.1.11
ask() {
    "$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
try:
    import mmpretrain.models
    print("imported")
except TypeError as error:
    print("TypeError,", error)
PYTHON
}
{
    echo "without transformers: $(ask)"
    pip transformers==4.57.6
    echo "transformers 4.57.6: $(ask)"
    pip transformers==5.24.0
    echo "transformers 5.24.0: $(ask)"
} > "$folder/seen"
cat "$folder/seen"
cat > "$folder/expected" <<'SEEN'
without transformers: imported
transformers 4.57.6: imported
transformers 5.24.0: TypeError, NoneType takes no arguments
SEEN
diff "$folder/expected" "$folder/seen" && echo "as expected"
