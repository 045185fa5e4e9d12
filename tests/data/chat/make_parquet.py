"""Makes tests/data/chat/tools.parquet: conversations whose messages have different keys, which Arrow fills with null.

    python make_parquet.py          (pyarrow)
"""

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

user = lambda text: {"role": "user", "content": text}
call = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"z": 1, "a": "b"}}}]}
other = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "g", "arguments": {"q": 2.5}}}]}
rows = [
    {"messages": [user("hi"), call, {"role": "tool", "content": "4", "name": "f"}, {"role": "assistant", "content": "four"}], "id": 1},
    {"messages": [user("so"), other], "id": 2},
]
pq.write_table(pa.Table.from_pylist(rows), pathlib.Path(__file__).parent / "tools.parquet", compression="zstd")
