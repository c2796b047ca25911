"""Search of large indexes on the disk: memory and time, and what product quantisation would change.

Run:  OMP_NUM_THREADS=1 python benchmarks/search_scale.py [--counts 10000 100000 1000000] [--width 768]
      [--index-dtype fp16] [--folder DIR]

Indexes stay in the folder, and are measured again by the next run. Searches and making codes are given in
the processor's seconds, which others on the machine lengthen less than those of the clock.

Vectors are synthetic, with the structure that makes search easy or hard: 1,000 clusters and noise, in
which the nearest ones are of the query's cluster. White noise alone would have no near neighbours.
Each run has a process of its own. "whole" is what was done before 2026-11-30: the file is read into
memory with all items, and chunks of 65,536 rows are converted and sorted. With faiss-cpu installed (any
folder on PYTHONPATH), IndexPQ of a byte for 8 dimensions is measured too, alone and with the best 100
compared exactly.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
GB = 10**9
CLUSTERS, NOISE, QUERIES, K, BLOCK = 1000, 0.7, 32, 10, 4096
TRAINED_WITH = 16_384
WHOLE_UP_TO = 1_000_000  # more do not fit into the memory


def vectors(count: int, width: int, seed: int) -> Iterator[np.ndarray]:
    """Unit vectors around the centres of clusters, in blocks."""
    centres = np.random.default_rng(0).standard_normal((CLUSTERS, width), np.float32)
    rng = np.random.default_rng(seed)
    for start in range(0, count, BLOCK):
        rows = min(BLOCK, count - start)
        x = NOISE * rng.standard_normal((rows, width), np.float32)
        x += centres[rng.integers(0, CLUSTERS, rows)]
        yield x / np.linalg.norm(x, axis=1, keepdims=True)


def make(path: Path, count: int, width: int, dtype_name: str) -> float:
    """Write an index of image files; the seconds."""
    from mmonepeace.apis.index import save_index
    from mmonepeace.apis.index_building import INDEX_DTYPES
    from mmonepeace.apis.item_list import MODALITIES, ItemList
    from mmonepeace.apis.tensor_file import Rows

    start = time.perf_counter()
    dtype = INDEX_DTYPES[dtype_name]
    item = '{{"modality": "image", "path": "photos/{:04}/{:08}.jpg", "size": 184467, "mtime": {}}}'
    keys = [item.format(i // 10_000, i, 1_795_000_000_123_456_789 + i) for i in range(count)]
    items = ItemList.of_keys(keys, np.full(count, MODALITIES.index("image"), np.uint8))
    rows = Rows((count, width), dtype, (x.astype(dtype) for x in vectors(count, width, 1)))
    save_index(path, rows, items, {})
    return time.perf_counter() - start


def resident() -> dict[str, float]:
    """Memory of this process in GB: now, and at its peak."""
    status = Path("/proc/self/status").read_text().split()
    return {name: int(status[status.index(name) + 1]) * 1024 / GB for name in ("VmRSS:", "VmHWM:")}


def forget(path: Path) -> None:
    """Have the system forget what it has read of a file."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(
    run: Callable[[], Any], clock: Callable[[], float] = time.process_time
) -> tuple[Any, float]:
    """What a call returns, and its seconds."""
    start = clock()
    result = run()
    return result, clock() - start


def fastest(run: Callable[[], Any], count: int) -> float:
    """Seconds of the fastest call; of one, if it is long."""
    return min(timed(run)[1] for _ in range(3 if count <= 100_000 else 1))


def measure_ours(path: Path, queries: np.ndarray) -> dict[str, Any]:
    """Open and search; scores and rows of all queries too."""
    from mmonepeace.apis import EmbeddingIndex, search

    before = resident()["VmRSS:"]
    forget(path)
    index, opened = timed(lambda: EmbeddingIndex.load(path), time.perf_counter)
    _, cold = timed(lambda: index.search(queries[0], K), time.perf_counter)
    warm = fastest(lambda: index.search(queries[0], K), len(index.items))
    (_, rows), many = timed(lambda: search(queries, index, K))
    peak = resident()["VmHWM:"]
    return dict(opened=opened, cold=cold, warm=warm, many=many, rows=rows, added=peak - before)


def measure_whole(path: Path, queries: np.ndarray) -> dict[str, Any]:
    """What was done before: everything in memory."""
    from safetensors import safe_open

    before = resident()["VmRSS:"]
    forget(path)

    def load() -> tuple[np.ndarray, list[Any]]:
        with safe_open(str(path), "numpy") as file:
            items = json.loads(file.get_tensor("items").tobytes())
            return file.get_tensor("embeddings"), items

    (embeddings, _items), opened = timed(load, time.perf_counter)

    def search(query: np.ndarray) -> np.ndarray:
        q = torch.from_numpy(np.atleast_2d(query))
        scores, rows = torch.empty(len(q), 0), torch.empty(len(q), 0, dtype=torch.long)
        for start in range(0, len(embeddings), 65_536):
            chunk = torch.from_numpy(np.ascontiguousarray(embeddings[start : start + 65_536]))
            cosines = (q @ chunk.float().t()).nan_to_num(nan=-torch.inf)
            chunk_rows = torch.arange(start, start + len(chunk)).expand(len(q), -1)
            scores, rows = torch.cat([scores, cosines], 1), torch.cat([rows, chunk_rows], 1)
            scores, best = scores.topk(min(K, scores.shape[1]), dim=1)
            rows = rows.gather(1, best)
        return rows.numpy()

    warm = fastest(lambda: search(queries[0]), len(embeddings))
    rows, many = timed(lambda: search(queries))
    return dict(opened=opened, warm=warm, many=many, rows=rows, added=resident()["VmHWM:"] - before)


def measure_pq(path: Path, queries: np.ndarray) -> dict[str, Any]:
    """Product quantisation: made from the file, searched in memory."""
    import faiss

    from mmonepeace.apis import EmbeddingIndex, search

    faiss.omp_set_num_threads(torch.get_num_threads())
    embeddings = EmbeddingIndex.load(path).embeddings
    count, width = embeddings.shape
    before = resident()["VmRSS:"]
    pq = faiss.IndexPQ(width, width // 8, 8, faiss.METRIC_INNER_PRODUCT)
    some = np.sort(np.random.default_rng(2).permutation(count)[:TRAINED_WITH])
    _, trained = timed(lambda: pq.train(embeddings[some].astype(np.float32)))

    def add() -> None:
        for start in range(0, count, BLOCK):
            pq.add(embeddings[start : start + BLOCK].astype(np.float32))

    _, added_in = timed(add)
    size = (pq.ntotal * pq.pq.code_size + 4 * 256 * width) / GB  # with the centroids
    warm = fastest(lambda: pq.search(queries[:1], K), count)
    (_, rows), many = timed(lambda: pq.search(queries, K))

    def exact_among_best(some_queries: np.ndarray) -> np.ndarray:
        _, found = pq.search(some_queries, 100)
        return np.array(
            [
                candidates[search(query, embeddings[candidates], K)[1][0]]
                for query, candidates in zip(some_queries, found, strict=True)
            ]
        )

    reranked, both = timed(lambda: exact_among_best(queries))
    _, one = timed(lambda: exact_among_best(queries[:1]))
    return dict(
        made=trained + added_in, size=size, warm=warm, many=many, rows=rows, reranked=reranked,
        one=one, both=both, added=resident()["VmHWM:"] - before,
    )  # fmt: skip


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Part of the exact results that were found."""
    hits = [len(set(a) & set(b)) for a, b in zip(found.tolist(), exact.tolist(), strict=True)]
    return sum(hits) / exact.size


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def exact_rows(path: Path, count: int, args: argparse.Namespace) -> tuple[list[str], np.ndarray]:
    """Rows of the table of exact search, and what it finds."""
    written = ""
    if not path.exists():
        written = f"{in_own_process(make, path, count, args.width, args.index_dtype):.1f}"
    queries = next(vectors(QUERIES, args.width, 3))
    ours = in_own_process(measure_ours, path, queries)
    line = (
        f"| {count:,} | ours | {path.stat().st_size / GB:.2f} | {written} | {ours['opened']:.3f} | "
        f"{ours['cold']:.3f} | {ours['warm']:.3f} | {ours['many']:.3f} | {ours['added']:.2f} |"
    )
    lines = [line]
    if count <= WHOLE_UP_TO:
        whole = in_own_process(measure_whole, path, queries)
        same = recall(whole["rows"], ours["rows"])
        assert same == 1, f"{same:.3f} of the results are the same"
        lines.append(
            f"| {count:,} | whole | | | {whole['opened']:.3f} | | {whole['warm']:.3f} | "
            f"{whole['many']:.3f} | {whole['added']:.2f} |"
        )
    print(*lines, sep="\n", file=sys.stderr, flush=True)
    return lines, ours["rows"]


def quantised_row(path: Path, count: int, width: int, exact: np.ndarray) -> str:
    """A row of the table of quantisation."""
    pq = in_own_process(measure_pq, path, next(vectors(QUERIES, width, 3)))
    line = (
        f"| {count:,} | {pq['made']:.1f} | {pq['size']:.2f} | {pq['warm']:.3f} | {pq['many']:.3f} | "
        f"{recall(pq['rows'], exact):.2f} | {pq['one']:.3f} | {pq['both']:.3f} | "
        f"{recall(pq['reranked'], exact):.2f} |"
    )
    print(line, file=sys.stderr, flush=True)
    return line


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--index-dtype", choices=("fp32", "fp16"), default="fp16")
    parser.add_argument("--folder", type=Path, help="where indexes stay")
    args = parser.parse_args()
    try:
        import faiss

        args.faiss = faiss.__version__
    except ImportError:
        args.faiss = None
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        paths = {
            count: folder / f"index-{count}-{args.width}-{args.index_dtype}.safetensors"
            for count in args.counts
        }
        found = {count: exact_rows(path, count, args) for count, path in paths.items()}
        exact = [line for lines, _ in found.values() for line in lines]
        quantised = [
            quantised_row(path, count, args.width, found[count][1])
            for count, path in (paths if args.faiss else {}).items()
        ]
    print(f"- Date: {date.today().isoformat()}")
    print(f"- Command: `{' '.join(['python benchmarks/search_scale.py', *sys.argv[1:]])}`")
    print(f"- Hardware: {platform.machine()} CPU, {torch.get_num_threads()} threads")
    print(
        f"- Versions: Python {platform.python_version()}, torch {torch.__version__}, numpy "
        f"{np.__version__}, faiss-cpu {args.faiss}"
    )
    print(f"- Vectors: width {args.width}, {args.index_dtype}, {CLUSTERS:,} clusters; k = {K}\n")
    print(
        "| items | way | file, GB | written, s | opened, s | one query, from the disk, s | one query, "
        f"CPU s | {QUERIES} queries, CPU s | memory, GB |\n|---|---|---|---|---|---|---|---|---|"
    )
    print(*exact, sep="\n")
    if quantised:
        print(
            f"\n| items | made, CPU s | codes, GB | one query, CPU s | {QUERIES} queries, CPU s | "
            f"recall@{K} | one query, best 100 exactly, CPU s | {QUERIES} queries, CPU s | recall@{K} |\n"
            "|---|---|---|---|---|---|---|---|---|"
        )
        print(*quantised, sep="\n")


if __name__ == "__main__":
    main()
