import json
import subprocess
import sys

from tests.conftest import ROOT


def test_bench_times_every_way_of_the_workloads_and_writes_table_numbers_and_picture(tmp_path):
    numbers, picture = tmp_path / "rows.json", tmp_path / "curves.png"
    command = [sys.executable, "benchmarks/bench.py", "--arch", "tiny", "--against", "none"]
    command += ["--rounds", "2", "--only", "text", "tokens-257", "--batch", "1"]
    command += ["--json", str(numbers), "--plot", str(picture)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(numbers.read_text())
    ways = ["ours", "padded to the longest", "ours"]
    assert [row["way"] for row in rows] == ways
    for row in rows:
        assert 0 < row["share"] < 1.5
        assert row["memory"] > 0
        assert f"| {row['workload']} | {row['way']} | {row['seconds']:.3f} |" in done.stdout
    assert picture.stat().st_size > 0


def test_an_unknown_workload_is_refused_with_those_that_there_are():
    command = [sys.executable, "benchmarks/bench.py", "--only", "txet"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "txet" in done.stderr
    assert "embedder-audio" in done.stderr
