"""Files of all kinds, damaged at random places: each is read, or named by an error of a sample."""

import io
import random
import struct
import tarfile
import zlib

import numpy as np
import pytest
import soundfile
from PIL import Image, features

from mmonepeace.datasets.audio_io import load_audio
from mmonepeace.datasets.image_io import to_rgb
from mmonepeace.datasets.manifest import ManifestError, read_lines, read_manifest
from mmonepeace.datasets.sample_errors import AudioError, ImageError, SampleError
from mmonepeace.datasets.shard_io import count_samples, read_samples

DAMAGES = 40  # of each file
NUMBERS = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\1\0"]
PIXELS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 4), dtype=np.uint8))


def image(form, mode="RGB", **options):
    file = io.BytesIO()
    PIXELS.convert(mode).save(file, form, **options)
    return file.getvalue()


def sound(form, subtype, channels=1):
    file, rng = io.BytesIO(), np.random.default_rng(0)
    samples = rng.uniform(-0.5, 0.5, (20_000, channels))
    soundfile.write(file, samples, 16_000, format=form, subtype=subtype)
    return file.getvalue()


def shard(form):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for i in range(8):
            for suffix in ("png", "txt"):
                info = tarfile.TarInfo(f"{'d' * 95}/{i}é.{suffix}")
                info.size = 600
                tar.addfile(info, io.BytesIO(bytes(range(200)) * 3))
    return file.getvalue()


TABLE = b'image\tcaption\na.png\t"two ""lines""\nof text"\nb.png\tcaf\xc3\xa9\n' * 5
EXIF = Image.Exif()
EXIF.update({0x0112: 6, 0x010F: "maker", 0x011A: 72.0})
FILES = {
    "image": {
        "jpg": image("JPEG", exif=EXIF), "png": image("PNG", "RGBA", exif=EXIF),
        "webp": image("WEBP", exif=EXIF), "tif": image("TIFF", compression="tiff_lzw"),
        "gif": image("GIF", "P"), "bmp": image("BMP"),
    },
    "audio": {
        "wav": sound("WAV", "FLOAT", 2), "flac": sound("FLAC", "PCM_16"),
        "ogg": sound("OGG", "VORBIS"), "mp3": sound("MP3", "MPEG_LAYER_III"),
    },
    "table": {
        "tsv": TABLE, "csv": TABLE.replace(b"\t", b","), "txt": TABLE,
        "jsonl": b'{"image": "a.png", "caption": "caf\\u00e9"}\n' * 9,
    },
    "shard": {"gnu": shard(tarfile.GNU_FORMAT), "pax": shard(tarfile.PAX_FORMAT)},
}  # fmt: skip
if features.check("avif"):
    FILES["image"]["avif"] = image("AVIF", exif=EXIF)
CASES = [(kind, suffix) for kind, files in FILES.items() for suffix in files]


def damage(draw, content):
    """Bits, bytes and numbers changed, parts lost, repeated, empty or random, mostly in headers."""
    content = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 5])):
        start = draw.randrange(min(len(content), draw.choice([32, 200, len(content)])))
        end = start + draw.choice([1, 4, 100, 512])
        part = content[start:end]
        content[start:end] = draw.choice([
            bytes([part[0] ^ 1 << draw.randrange(8)]) + part[1:], draw.choice(NUMBERS) + part[4:],
            b"", part * 2, bytes(len(part)), draw.randbytes(len(part)),
        ])  # fmt: skip
        content = content or bytearray(b"x")
    return bytes(content if draw.random() < 0.8 else content[: draw.randrange(len(content))])


def with_checksums(kind, content):
    """Correct checksums, so that damage gets past them."""
    content = bytearray(content)
    if kind == "png":
        at = 8
        while at + 12 <= len(content):
            end = at + 8 + int.from_bytes(content[at : at + 4], "big")
            content[end : end + 4] = struct.pack(">I", zlib.crc32(content[at + 4 : end]))
            at = end + 4
    elif kind in FILES["shard"]:
        for at in range(0, len(content) - 511, 512):
            if content[at + 257 : at + 262] == b"ustar":
                content[at + 148 : at + 156] = b" " * 8
                content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    return bytes(content)


def read_shard(path):
    (count,) = count_samples([path])
    samples = list(read_samples(path, range(count)))
    assert len(samples) == count
    assert all(isinstance(s, SampleError) or s["__key__"] for s in samples)


def read_table(path):
    if path.suffix == ".txt":
        return list(read_lines(path))
    return read_manifest(path, {"image": "image", "text": "caption"})


READERS = {
    "image": (to_rgb, ImageError), "audio": (load_audio, AudioError),
    "table": (read_table, ManifestError), "shard": (read_shard, SampleError),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "suffix"), CASES)
def test_a_damaged_file_is_read_or_named(kind, suffix, tmp_path):
    path = tmp_path / f"file.{suffix}"
    read, error = READERS[kind]
    path.write_bytes(FILES[kind][suffix])
    read(path)
    refusals = []
    for seed in range(DAMAGES):
        draw = random.Random(f"{suffix} {seed}")
        content = damage(draw, FILES[kind][suffix])
        path.write_bytes(with_checksums(suffix, content) if draw.random() < 0.7 else content)
        try:
            read(path)
        except error as refusal:
            refusals.append(str(refusal))
    assert all(str(path) in refusal for refusal in refusals)
