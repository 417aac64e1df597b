"""A timeline of the exchange as Chrome trace events, for ui.perfetto.dev or chrome://tracing."""

import json
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

from thinwire.torch._reducer import Bucket, Span

_ON_CODEC_THREAD = ("encode", "combine", "decode")


def write_trace(
    path: "str | PathLike[str]", spans: Iterable[Span], buckets: Iterable[Bucket], rank: int
) -> None:
    """One process for the rank; its codec's thread, and a track for what overlaps."""
    known = {bucket.index: bucket for bucket in buckets}
    events: list[dict[str, Any]] = [
        _named("process_name", rank, f"rank {rank}"),
        _named("thread_name", rank, "codec"),
    ]
    for span in spans:
        events += _events(span, rank, known)
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"traceEvents": events, "displayTimeUnit": "ms"}, file)


def _events(span: Span, rank: int, known: Mapping[int, Bucket]) -> list[dict[str, Any]]:
    index, chunk, name, begin, end = span
    common = {"pid": rank, "tid": 0, "ts": begin}
    if name in _ON_CODEC_THREAD:
        label = f"{name} {index}" if chunk < 1 else f"{name} {index}.{chunk}"
        return [{**common, "ph": "X", "name": label, "cat": "codec", "dur": end - begin}]
    whole = chunk < 0
    pair = {
        **common,
        "name": f"bucket {index}" if whole else name,
        "cat": "bucket" if whole else "exchange",
        "id": f"{rank}.{index}.{chunk}.{name}",
        "args": _facts(known.get(index)) if whole else {"bucket": index, "chunk": chunk},
    }
    return [{**pair, "ph": "b"}, {**pair, "ph": "e", "ts": end}]


def _facts(bucket: Bucket | None) -> dict[str, Any]:
    if bucket is None:  # it has ended since: DDP has rebuilt its buckets
        return {}
    return {
        "first": bucket.names[0],
        "last": bucket.names[-1],
        "elements": bucket.elements,
        "codecs": "+".join(sorted(set(bucket.codecs))),
        "wire_bytes": bucket.wire_bytes,
        "plain_wire_bytes": bucket.plain_wire_bytes,
    }


def _named(kind: str, rank: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": rank, "tid": 0, "name": kind, "args": {"name": name}}
