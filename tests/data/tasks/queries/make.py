"""Makes spider/, three questions in Spider's layout, and expected.json: what builtin:sql answers to the questions of
mini_sql through transformers, and whether Python's sqlite3 gives the same rows for it as for the reference.

    python make.py          (transformers, torch)
"""

import collections
import itertools
import json
import pathlib
import re
import sqlite3

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = pathlib.Path(__file__).parent
BUILTIN = HERE / "../../../../prelude/builtin"


def same(expected, found, ordered):
    """Whether some order of columns gives the same rows, in order or not."""
    if not expected and not found:
        return True
    if len(expected) != len(found) or len(expected[0]) != len(found[0]):
        return False
    for order in itertools.permutations(range(len(expected[0]))):
        rows = [tuple(row[i] for i in order) for row in found]
        if expected == rows if ordered else collections.Counter(expected) == collections.Counter(rows):
            return True
    return False


def judged(setup, reference, query):
    database = sqlite3.connect(":memory:")
    database.executescript(setup)
    expected = database.execute(reference).fetchall()
    try:
        return same(expected, database.execute(query).fetchall(), "order by" in reference.lower())
    except sqlite3.Error:
        return False


def answers():
    model = AutoModelForCausalLM.from_pretrained(BUILTIN / "sql", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(BUILTIN / "sql")
    for line in (BUILTIN / "tasks/mini_sql.jsonl").read_text().splitlines():
        row = json.loads(line)
        ids = tokenizer.apply_chat_template([{"role": "user", "content": row["question"]}], add_generation_prompt=True,
                                            return_tensors="pt", return_dict=False)
        made = model.generate(ids, max_new_tokens=64, do_sample=False)
        answer = tokenizer.decode(made[0, ids.shape[1]:], skip_special_tokens=True)
        query = re.findall(r"(?is)\b((?:select|with)\b.*?)\s*(?:;|```|$)", answer)
        query = query[0] if query else ""
        yield {"answer": answer, "query": query, "right": judged(row["setup"], row["query"], query)}


def spider():
    directory = HERE / "spider/database/shop"
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "shop.sqlite"
    file.unlink(missing_ok=True)
    database = sqlite3.connect(file)
    database.executescript("""
        PRAGMA page_size = 512; VACUUM;
        CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, price INTEGER);
        CREATE TABLE buyers (order_id INTEGER REFERENCES orders(id), name TEXT);
        INSERT INTO orders VALUES (1, 'pen', 2), (2, 'book', 12), (3, 'lamp', 30);
        INSERT INTO buyers VALUES (1, 'Ann'), (2, 'Bob'), (3, 'Ann');
    """)
    database.close()
    questions = [
        ("List the item of orders with price over 10.", "SELECT item FROM orders WHERE price > 10"),
        ("How many orders have item pen?", "SELECT count(*) FROM orders WHERE item = 'pen'"),
        ("What did Ann buy?", "SELECT item FROM orders JOIN buyers ON id = order_id WHERE name = 'Ann'"),
    ]
    rows = [{"db_id": "shop", "question": q, "query": sql, "query_toks": sql.split(), "sql": {"from": {}}} for q, sql in questions]
    (HERE / "spider/dev.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    spider()
    made = list(answers())
    (HERE / "expected.json").write_text(json.dumps(made, indent=0) + "\n")
    print(sum(one["right"] for one in made), "of", len(made))
