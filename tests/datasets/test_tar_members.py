import io
import tarfile

import pytest

from mmonepeace.datasets.tar_members import BLOCK, READ_ERRORS, Member, open_tar, walk

NAMES = [f"{i:02d}.txt" for i in range(8)]


def write(path, **options):
    """Eight members of one block each; positions are those of their headers."""
    with tarfile.open(path, "w", **options) as tar:
        for name in NAMES:
            info = tarfile.TarInfo(name)
            info.size = 5
            tar.addfile(info, io.BytesIO(name[:5].encode()))
    return bytearray(path.read_bytes())


def read(path):
    """(name -> content or fault, what is said about the file)."""
    members, said = {}, []
    with open_tar(path) as tar:
        for member in walk(tar):
            if isinstance(member, Member):
                try:
                    members[member.name] = member.fault or tar.content(member)
                except READ_ERRORS as error:
                    members[member.name] = str(error)
            else:
                said.append(member)
    return members, said


def header(name, **fields):
    """A header with numbers that no one writes."""
    info = tarfile.TarInfo(name)
    content = bytearray(info.tobuf())
    for (start, end), value in fields.values():
        content[start:end] = value
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content)
    return bytes(content)


SIZE, TYPE, LINK = (124, 136), (156, 157), (157, 257)
NEGATIVE = b"\xff" * 11 + b"\xf0"
HUGE = b"\x80" + b"\x7f" * 11
GIGABYTES = b"%011o\0" % (7 * 2**30)


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_healthy_files_give_what_tarfile_gives(form, suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    long = f"{'d' * 60}/{'x' * 90}.txt"
    with tarfile.open(path, f"w:{suffix[4:]}", format=form) as tar:
        for name in (*NAMES, long, "é.txt"):
            info = tarfile.TarInfo(name)
            info.size = 700
            tar.addfile(info, io.BytesIO(name.encode().ljust(700)))
    members, said = read(path)
    assert list(members) == [*NAMES, long, "é.txt"]
    assert all(content == name.encode().ljust(700) for name, content in members.items())
    assert not said


@pytest.mark.parametrize(
    ("at", "block", "fault"),
    [
        (6, bytes(BLOCK), "the part from byte 3,072 to byte 4,096 is damaged."),
        (6, bytes(2 * BLOCK), "the part from byte 3,072 to byte 4,096 is empty."),
        (6, b"\xa5" * BLOCK, "the part from byte 3,072 to byte 4,096 is damaged."),
        (0, b"\xa5" * BLOCK, "the part from byte 0 to byte 1,024 is damaged."),
        (6, header("bad", size=(SIZE, NEGATIVE)), "from byte 3,072 to byte 4,096 is damaged"),
        (6, header("bad", size=(SIZE, HUGE)), "from byte 3,072 to byte 4,096 is damaged"),
        (6, header("bad", size=(SIZE, GIGABYTES)), "from byte 3,072 to byte 4,096 is damaged"),
        (6, header("bad", size=(SIZE, GIGABYTES), t=(TYPE, b"x")), "to byte 4,096 is damaged"),
        (6, header("bad", size=(SIZE, NEGATIVE), t=(TYPE, b"x")), "to byte 4,096 is damaged"),
        (6, header("bad", size=(SIZE, HUGE), t=(TYPE, b"L")), "to byte 4,096 is damaged"),
    ],
)
def test_damage_costs_the_member_that_it_is_in(at, block, fault, tmp_path):
    path = tmp_path / "a.tar"
    content = write(path)
    content[at * BLOCK : at * BLOCK + len(block)] = block
    path.write_bytes(content)
    members, said = read(path)
    lost = NAMES[at // 2]
    assert [name for name in members if name in NAMES] == [n for n in NAMES if n != lost]
    assert all(members[name] == name[:5].encode() for name in NAMES if name != lost)
    assert len(said) == 1
    assert fault in said[0]
    if "bad" in members:
        assert "the shard ends before the end of bad" in members["bad"]


def test_cut_and_foreign_files_say_so(tmp_path):
    path = tmp_path / "a.tar"
    content = write(path)
    for length in range(0, 17 * BLOCK, 200):
        path.write_bytes(content[:length])
        members, said = read(path)
        whole = [name for i, name in enumerate(NAMES) if (2 * i + 1) * BLOCK + 5 <= length]
        assert [n for n, c in members.items() if c == n[:5].encode()] == whole
        headers = len([i for i in range(8) if (2 * i + 1) * BLOCK <= length])
        assert len(members) == headers
        assert len(said) <= 1
    for content, fault in (
        (b"", "an empty one"),
        (b"text" * 500, "not a tar"),
        (bytes(4096), "not"),
    ):
        path.write_bytes(content)
        assert fault in str(read(path)[1])
        assert not read(path)[0]
    for suffix in ("gz", "bz2", "xz"):
        with tarfile.open(path, f"w:{suffix}") as tar:
            tar.add(__file__, "a.py")
        path.write_bytes(path.read_bytes()[: -path.stat().st_size // 2])
        assert "it cannot be read beyond byte" in str(read(path)[1]) or len(read(path)[0]) == 1


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (tarfile.SYMTYPE, "bad is a link to elsewhere. Make the shard again with tar --deref"),
        (tarfile.LNKTYPE, "bad is a link to elsewhere"),
        (tarfile.FIFOTYPE, "bad is not a file"),
        (tarfile.GNUTYPE_SPARSE, "bad is stored as a sparse file"),
    ],
)
def test_members_without_content_say_what_they_are(kind, fault, tmp_path):
    path = tmp_path / "a.tar"
    content = write(path)
    content[:BLOCK] = header("bad", t=(TYPE, kind), link=((157, 166), b"elsewhere"))
    path.write_bytes(content)
    members, _ = read(path)
    assert fault in members["bad"]
    assert list(members)[1:] == NAMES[1:]


def test_extended_headers_without_end_take_no_time_and_no_memory(tmp_path):
    path = tmp_path / "a.tar"
    big = b"2 " * 2**18 + b"="
    size = (SIZE, b"%011o\0" % len(big))
    chain = header("x", size=(SIZE, b"%011o\0" % 0), t=(TYPE, b"x")) * 3000
    path.write_bytes(
        header("x", size=size, t=(TYPE, b"x")) + big + bytes(511) + chain + write(tmp_path / "b")
    )
    members, said = read(path)
    assert list(members) == NAMES
    assert len(said) == 1
