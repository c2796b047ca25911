#!/bin/sh
# libsndfile writes the same samples to a different OGG file each time; FLAC and WAV files are equal.
#
# One would guess: an encoder without options that are random gives equal bytes for equal samples, so
# that a generated data set can be compared by hashes, and a cache keyed by content hits.
# What happens: each OGG stream has a serial number, which libsndfile draws anew for each file, and
# the checksums of all pages follow from it. Everything else is equal: with serials and checksums
# set to zero the files are the same, and they decode to the same samples.
# Who meets it: whoever tests by hashes that a converter is deterministic, looks for duplicates among
# clips by their bytes, or stores clips in a content-addressed store or in git.
# Versions: soundfile 0.14.0 (libsndfile 1.2.2), numpy 2.2.6; seen on 2026-11-29.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q soundfile==0.14.0 numpy==2.2.6
"$folder/venv/bin/python" - > "$folder/seen" <<'PYTHON'
import io

import numpy as np
import soundfile

wave = np.sin(np.arange(16000) * 0.05).astype(np.float32)


def written(kind, subtype):
    file = io.BytesIO()
    soundfile.write(file, wave, 16000, format=kind, subtype=subtype)
    return file.getvalue()


def without_serials(data):
    """OGG pages with serial number (bytes 14 to 17) and checksum (22 to 25) set to zero."""
    page, changed = 0, bytearray(data)
    while (page := data.find(b"OggS", page)) >= 0:
        changed[page + 14 : page + 18] = changed[page + 22 : page + 26] = bytes(4)
        page += 4
    return bytes(changed)


for kind, subtype in (("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", "PCM_16"), ("WAV", "PCM_16")):
    files = [written(kind, subtype) for _ in range(3)]
    line = f"{kind} {subtype}: {len(set(files))} different files of 3"
    if kind == "OGG":
        line += f", {len({without_serials(file) for file in files})} without serials and checksums"
    samples = [soundfile.read(io.BytesIO(file))[0] for file in files]
    print(f"{line}; equal samples: {all(np.array_equal(samples[0], s) for s in samples)}")
PYTHON
cat "$folder/seen"
cat > "$folder/expected" <<'SEEN'
OGG VORBIS: 3 different files of 3, 1 without serials and checksums; equal samples: True
OGG OPUS: 3 different files of 3, 1 without serials and checksums; equal samples: True
FLAC PCM_16: 1 different files of 3; equal samples: True
WAV PCM_16: 1 different files of 3; equal samples: True
SEEN
diff "$folder/expected" "$folder/seen" && echo "as expected"
