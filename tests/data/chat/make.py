"""Makes tests/data/chat/rows.jsonl, rows of data, and templates.json, a template for each and the token ids that transformers' `apply_chat_template` gives
for the conversations they are, with templates of our own that do what real ones do.

    python make.py          (transformers and jinja2; no model)

The tokenizer is that of builtin:math. `prompt` are the ids of the messages before the answer with what calls for it,
`rest` those of what the whole conversation adds.
"""

import json
import pathlib
import tempfile

from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).parent
TOKENIZER = HERE / "../../../prelude/builtin/math"

PLAIN = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# Tools as JSON in a system message, calls and their results, reasoning: as Qwen and Hermes do it.
TOOLS = """{%- if tools %}
    {{- '<|system|>' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n' }}{%- endif %}
    {{- '# Tools' }}
    {%- for tool in tools %}
        {{- '\\n' }}{{ tool | tojson }}
    {%- endfor %}
    {{- '<|end|>' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|system|>' + messages[0].content + '<|end|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' and loop.first %}
        {%- continue %}
    {%- elif message.role == 'assistant' %}
        {{- '<|assistant|>' }}
        {%- if message.reasoning_content is defined %}<think>{{ message.reasoning_content | trim }}</think>{% endif %}
        {%- if message.content %}{{- message.content }}{%- endif %}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<call>' + call.function.name + ' ' }}
            {%- if call.function.arguments is string %}{{- call.function.arguments }}{% else %}{{- call.function.arguments | tojson }}{% endif %}
            {%- if call.id is defined %}{{- ' #' ~ call.id }}{% endif %}
        {%- endfor %}
        {{- '<|end|>' }}
    {%- elif message.role == 'tool' %}
        {{- '<|user|><result' }}
        {%- if message.name %}{{- ' of ' + message.name }}{% endif %}
        {%- if message.tool_call_id %}{{- ' #' + message.tool_call_id }}{% endif %}
        {{- '>' + message.content + '</result><|end|>' }}
    {%- else %}
        {{- '<|' + message.role + '|>' + message.content + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{% endif %}"""

# Content as text or as parts, indented JSON, Python's ways to print and format.
PARTS = """{%- for message in messages %}
{{- '<|' ~ message['role'] ~ '|>' }}
{%- if message['content'] is string %}{{ message['content'].strip().title() }}
{%- else %}{% for part in message['content'] %}[{{ part['type'] }}:{{ part.text }}]{% endfor %}
{%- endif %}
{%- if message.extra is defined %}{{ message.extra | tojson(indent=2) }}|{{ message.extra | tojson(separators=(',', ':')) }}|{{ message.extra | tojson(sort_keys=true, ensure_ascii=true) }}|{{ message.extra.flag }}|{{ message.extra.none }}|{{ message.extra.list }}|{{ message.extra.number }}{% endif %}
{{- '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}
{%- if bos_token is defined %}{{ bos_token }}{% endif %}"""

CALL = {"type": "function", "function": {"name": "add", "arguments": {"b": 2, "a": [1, 2.5, 1e20, 1e-7, True, None, "é\"\n"]}}}
TOOL = {"type": "function", "function": {"name": "add", "description": "sums", "parameters": {"type": "object", "properties": {"b": {"type": "number"}, "a": {"type": "array"}}}}}
U = lambda text: {"role": "user", "content": text}
A = lambda text: {"role": "assistant", "content": text}
S = lambda text: {"role": "system", "content": text}
T = lambda text, **more: {"role": "tool", "content": text, **more}

called = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]}
tool_row = [S("S"), U("hi"), called, T("4"), A("four")]
by_id = [U("sum"), {**A(""), "tool_calls": [{**CALL, "id": "x1"}]}, T("3", name="add", tool_call_id="x1"), A("3")]

# The template, the row, the messages that it is, how many of them come before the answer, and tools.
CASES = [
    (PLAIN, {"messages": [U("2 + 2?"), A("4"), U("3 + 3?"), A("6"), U("thanks")]}, [U("2 + 2?"), A("4"), U("3 + 3?"), A("6")], 3, None),
    (PLAIN, {"prompt": [U("hi")], "completion": [A("yo")]}, [U("hi"), A("yo")], 1, None),
    (PLAIN, {"prompt": [U("hi")], "completion": "yo"}, [U("hi"), A("yo")], 1, None),
    (PLAIN, {"prompt": "hi", "completion": {"role": "assistant", "content": "yo"}}, [U("hi"), A("yo")], 1, None),
    (PLAIN, {"instruction": "q", "output": "a", "system": "You are X"}, [S("You are X"), U("q"), A("a")], 2, None),
    (PLAIN, {"instruction": "q", "input": "i", "output": "a", "system": "", "history": []}, [U("q\ni"), A("a")], 1, None),
    (PLAIN, {"instruction": "q3", "input": "", "output": "a3", "history": [["q1", "a1"], ["q2", "a2"]], "system": "Y"}, [S("Y"), U("q1"), A("a1"), U("q2"), A("a2"), U("q3"), A("a3")], 6, None),
    (PLAIN, {"question": "q2", "answer": "a2", "history": [U("q1"), A("a1")]}, [U("q1"), A("a1"), U("q2"), A("a2")], 3, None),
    (PLAIN, {"instruction": "sum up", "context": "a b c", "response": "abc", "category": "closed_qa"}, [U("sum up\na b c"), A("abc")], 1, None),
    (PLAIN, {"question": "How many?", "context": "CREATE TABLE t (a INT)", "answer": "SELECT COUNT(*) FROM t"}, [U("How many?\nCREATE TABLE t (a INT)"), A("SELECT COUNT(*) FROM t")], 1, None),
    (PLAIN, {"problem": "2+2?", "solution": "4", "answer": "4"}, [U("2+2?"), A("4")], 1, None),
    (PLAIN, {"prompt": "2+2?", "response": "4"}, [U("2+2?"), A("4")], 1, None),
    (PLAIN, {"question": "2+2?", "answer": 4}, [U("2+2?"), A("4")], 1, None),
    (PLAIN, {"question": "1/2?", "answer": 0.5}, [U("1/2?"), A("0.5")], 1, None),
    (PLAIN, {"id": "t", "system_prompt": "Be kind.", "question": "hm?", "response": "ok"}, [S("Be kind."), U("hm?"), A("ok")], 2, None),
    (PLAIN, {"prompt": "p", "chosen": [U("p"), A("good")], "rejected": [U("p"), A("bad")]}, [U("p"), A("good")], 1, None),
    (PLAIN, {"prompt": [S("s"), U("p")], "chosen": [A("good")], "rejected": [A("bad")]}, [S("s"), U("p"), A("good")], 2, None),
    (PLAIN, {"system": "s", "question": "p", "chosen": "good", "rejected": "bad"}, [S("s"), U("p"), A("good")], 2, None),
    (PLAIN, {"prompt": "hi", "prompt_id": "7", "messages": [U("hi"), A("yo")]}, [U("hi"), A("yo")], 1, None),
    (PLAIN, {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}], "system": "be brief"}, [S("be brief"), U("hi"), A("yo")], 2, None),
    (PLAIN, {"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}], "system": "s"}, [S("s"), U("hi"), A("yo")], 2, None),
    (PLAIN, {"messages": [{"role": "developer", "content": "d"}, U("hi"), A("yo")]}, [{"role": "developer", "content": "d"}, U("hi"), A("yo")], 2, None),
    (PLAIN, {"messages": json.dumps([U("hi"), A("yo")])}, [U("hi"), A("yo")], 1, None),
    (TOOLS, {"messages": tool_row}, tool_row, 4, None),
    (TOOLS, {"messages": by_id, "tools": [TOOL]}, by_id, 3, [TOOL]),
    (TOOLS, {"messages": by_id, "tools": json.dumps([TOOL])}, by_id, 3, [TOOL]),
    (TOOLS, {"messages": [S("S")] + by_id[:2], "tools": [TOOL]}, [S("S")] + by_id[:2], 2, [TOOL]),
    (TOOLS, {"messages": by_id, "tools": []}, by_id, 3, []),
    (TOOLS, {"prompt": by_id[:1], "completion": by_id[1:], "tools": [TOOL]}, by_id, 1, [TOOL]),
    (TOOLS, {"messages": [U("why?"), {"role": "assistant", "reasoning": " hm ", "content": "so"}]}, [U("why?"), {"role": "assistant", "reasoning": " hm ", "content": "so"}], 1, None),
    (TOOLS, {"messages": [U("why?"), {"role": "assistant", "reasoning_content": "hm", "content": None}]}, [U("why?"), {"role": "assistant", "reasoning_content": "hm", "content": None}], 1, None),
    (TOOLS, {"conversations": [{"from": "human", "value": "hi"}, {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"z\": 1, \"a\": 2}}"}, {"from": "observation", "value": "4"}, {"from": "gpt", "value": "four"}]},
     [U("hi"), {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"z": 1, "a": 2}}}]}, T("4"), A("four")], 3, None),
    (PARTS, {"messages": [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}, A(" a three-fold way ")]}, [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}, A(" a three-fold way ")], 1, None),
    (PARTS, {"messages": [{**U("x"), "extra": {"z": 1, "flag": True, "none": None, "list": [1, "é", 2.5], "number": 3.0, "deep": {"b": [], "a": {}}}}, A("y")]},
     [{**U("x"), "extra": {"z": 1, "flag": True, "none": None, "list": [1, "é", 2.5], "number": 3.0, "deep": {"b": [], "a": {}}}}, A("y")], 1, None),
    ({"default": PLAIN, "tool_use": TOOLS}, {"messages": by_id, "tools": [TOOL]}, by_id, 3, [TOOL]),
    ({"default": TOOLS, "tool_use": PLAIN}, {"messages": [U("a"), A("b")]}, [U("a"), A("b")], 1, None),
]


def main():
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    made, rows = [], []
    for template, row, messages, prompt, tools in CASES:
        tokenizer.chat_template = template
        before = tokenizer.apply_chat_template(messages[:prompt], tools=tools, add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
        assert whole.startswith(before), (before, whole)
        ids = lambda text: tokenizer(text, add_special_tokens=False).input_ids
        prompt_ids = tokenizer.apply_chat_template(messages[:prompt], tools=tools, add_generation_prompt=True, return_dict=False)
        rest = ids(whole[len(before):])
        # No token spans the end of the prompt, so that the ids of the whole are those of its two parts.
        assert prompt_ids + rest == tokenizer.apply_chat_template(messages, tools=tools, return_dict=False), whole
        made.append({"template": template, "text": whole, "prompt": prompt_ids, "rest": rest})
        rows.append(json.dumps(row, ensure_ascii=False))
    (HERE / "rows.jsonl").write_text("\n".join(rows) + "\n")
    (HERE / "templates.json").write_text(json.dumps(made, ensure_ascii=False, indent=0) + "\n")

    # Where transformers looks for templates: the files, and the default that it finds.
    (HERE / "places.json").write_text(json.dumps(places(), indent=1) + "\n")


def places():
    named = [{"name": "default", "template": "in config: default"}, {"name": "tool_use", "template": "in config: tool_use"}]
    files = {
        "jinja": ("chat_template.jinja", "file: default"),
        "tools": ("additional_chat_templates/tool_use.jinja", "file: tool_use"),
    }
    found = []
    for config, with_files in [("in config", []), (named, []), (named, ["jinja"]), ("in config", ["jinja", "tools"]), (None, ["jinja"]), (named[1:], [])]:
        with tempfile.TemporaryDirectory() as directory:
            directory = pathlib.Path(directory)
            (directory / "tokenizer.json").write_bytes((TOKENIZER / "tokenizer.json").read_bytes())
            settings = json.loads((TOKENIZER / "tokenizer_config.json").read_text())
            settings.pop("chat_template")
            if config is not None:
                settings["chat_template"] = config
            (directory / "tokenizer_config.json").write_text(json.dumps(settings))
            for name in with_files:
                file, text = files[name]
                (directory / file).parent.mkdir(exist_ok=True)
                (directory / file).write_text(text)
            tokenizer = AutoTokenizer.from_pretrained(directory)
            try:
                default = tokenizer.get_chat_template()
            except ValueError:
                default = None
            found.append({
                "config": config, "files": {files[name][0]: files[name][1] for name in with_files},
                "default": default, "with_tools": tokenizer.get_chat_template(tools=[]),
            })
    return found


main()
