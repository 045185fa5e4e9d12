"""Makes tests/data/rows.parquet: messages, a dictionary column, snappy and zstd. Needs pyarrow."""
import os
import pyarrow as pa, pyarrow.parquet as pq

rows = [
    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}], "kind": "sum"},
    {"messages": [{"role": "user", "content": "3 + 3?"}, {"role": "assistant", "content": "6"}], "kind": "sum"},
]
table = pa.Table.from_pylist(rows)
here = os.path.dirname(os.path.abspath(__file__))
pq.write_table(table, os.path.join(here, "rows.parquet"), compression={"messages.list.element.role": "zstd", "messages.list.element.content": "snappy", "kind": "gzip"}, use_dictionary=True)
