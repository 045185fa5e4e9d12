"""Writes the documents of the built-in tasks, of seeded generators: mini_japanese, mini_math and mini_sql.

    python make.py
"""

import json
import pathlib
import random
import sqlite3

HERE = pathlib.Path(__file__).parent
COUNT = 100


def write(name, draw, key):
    """Writes COUNT different documents, in kinds of equal share."""
    rng = random.Random(name)
    seen, rows = set(), []
    while len(rows) < COUNT:
        row = draw(rng, len(rows))
        if row and row[key] not in seen:
            seen.add(row[key])
            rows.append(row)
    with open(HERE / f"{name}.jsonl", "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


# --- mini_japanese: a short text, a question about it, four choices.

PEOPLE = ["田中", "佐藤", "鈴木", "山本", "中村", "小林", "加藤", "吉田"]
DAYS = ["月曜日", "火曜日", "水曜日", "木曜日", "金曜日", "土曜日", "日曜日"]
CITIES = ["札幌", "仙台", "名古屋", "京都", "神戸", "広島", "福岡", "長崎"]
FOODS = ["うどん", "カレー", "ラーメン", "すし", "パン", "サラダ", "そば", "天ぷら"]
JOBS = ["医者", "教師", "料理人", "看護師", "運転手", "記者", "歌手", "画家"]
VEHICLES = ["バス", "電車", "自転車", "車", "地下鉄", "船"]
HOBBIES = ["釣り", "登山", "読書", "料理", "水泳", "写真", "将棋", "散歩"]
WEATHER = ["晴れ", "雨", "雪", "くもり"]
THINGS = ["かぎ", "財布", "本", "めがね", "手紙", "時計", "かさ", "切符"]
SPOTS = ["机の上", "かばんの中", "棚の上", "引き出しの中", "玄関", "台所", "車の中", "いすの下"]
SHOPS = ["本屋", "花屋", "スーパー", "薬局", "デパート", "市場"]
REASONS = ["熱がありました", "仕事が終わりませんでした", "電車が止まりました", "道をまちがえました", "友だちが訪ねてきました", "雨がひどかったです"]
EVENTS = ["音楽会", "結婚式", "花火大会", "同窓会", "試合", "展覧会"]
DEEDS = ["掃除をしました", "新聞を読みました", "犬と散歩をしました", "朝ご飯を作りました", "手紙を書きました", "洗濯をしました", "庭に水をまきました"]


def story(rng, index):
    two = lambda kind: rng.sample(kind, 2)
    (a, b, c), (day, other_day), (city, other_city) = rng.sample(PEOPLE, 3), two(DAYS), two(CITIES)
    food, other_food = two(FOODS)
    kind = index % 10
    if kind == 0:
        shop, thing = rng.choice(SHOPS), rng.choice(THINGS)
        text = f"{a}さんは{day}に{shop}へ行きました。帰り道で{b}さんに会い、二人で{food}を食べました。{a}さんはそのとき{thing}を店に忘れてしまいました。"
        return text, *rng.choice([
            (f"{a}さんは帰り道でだれに会いましたか。", f"{b}さん", [f"{x}さん" for x in PEOPLE if x != a]),
            ("二人は何を食べましたか。", food, FOODS),
            (f"{a}さんは何を忘れましたか。", thing, THINGS),
        ])
    if kind == 1:
        job, vehicle, hobby = rng.choice(JOBS), rng.choice(VEHICLES), rng.choice(HOBBIES)
        text = f"{a}さんは{city}で生まれましたが、今は{other_city}に住んでいます。仕事は{job}で、毎朝{vehicle}で職場に通っています。休みの日には{hobby}を楽しみます。"
        return text, *rng.choice([
            (f"{a}さんは今どこに住んでいますか。", other_city, [city] + CITIES),
            (f"{a}さんはどこで生まれましたか。", city, [other_city] + CITIES),
            (f"{a}さんは何で職場に通っていますか。", vehicle, VEHICLES),
        ])
    if kind == 2:
        first, second = two(WEATHER)
        text = f"きのう、{city}は{first}で、{other_city}は{second}でした。きょうは反対に、{city}が{second}で、{other_city}が{first}です。"
        return text, f"きょうの{city}の天気は何ですか。", second, WEATHER
    if kind == 3:
        text = f"{a}さんは{b}さんより背が高いです。{c}さんは{a}さんより背が高いです。"
        question, answer = rng.choice([("いちばん背が高い", c), ("いちばん背が低い", b)])
        return text, f"三人の中で{question}のはだれですか。", f"{answer}さん", [f"{x}さん" for x in [a, b, c] + PEOPLE]
    if kind == 4:
        hour, other_hour = rng.sample(range(1, 8), 2)
        text = f"会議は{day}の午後{hour}時に始まる予定でした。しかし、{a}さんの都合で{other_day}の午後{other_hour}時に変わりました。"
        return text, *rng.choice([
            ("会議は何曜日になりましたか。", other_day, [day] + DAYS),
            ("会議は何時に始まりますか。", f"午後{other_hour}時", [f"午後{x}時" for x in [hour, *range(1, 8)]]),
        ])
    if kind == 5:
        thing, (spot, other_spot) = rng.choice(THINGS), two(SPOTS)
        text = f"{a}さんは{thing}を{spot}に置いて出かけました。そのあと、{b}さんがそれを{other_spot}に移しました。"
        return text, f"{thing}は今どこにありますか。", other_spot, [spot] + SPOTS
    if kind == 6:
        event, reason = rng.choice(EVENTS), rng.choice(REASONS)
        text = f"{a}さんは{day}の{event}を楽しみにしていましたが、行けませんでした。その日の朝、{reason}。"
        return text, f"{a}さんはなぜ{event}に行けませんでしたか。", f"{reason}から", [f"{x}から" for x in REASONS]
    if kind == 7:
        text = f"{a}さんは{food}が大好きですが、{other_food}はあまり好きではありません。{b}さんは反対に、{other_food}が大好きで、{food}は食べません。"
        who, answer = rng.choice([(a, food), (b, other_food)])
        return text, f"{who}さんは何が大好きですか。", answer, [food, other_food] + FOODS
    if kind == 8:
        deeds = rng.sample(DEEDS, 3)
        text = f"{a}さんはけさ早く起きました。まず{deeds[0]}。次に{deeds[1]}。最後に{deeds[2]}。"
        word, at = rng.choice([("まず", 0), ("最後に", 2)])
        return text, f"{a}さんは{word}何をしましたか。", deeds[at], deeds + DEEDS
    count, given = rng.randint(5, 9), rng.randint(1, 4)
    text = f"{a}さんはりんごを{count}個持っていました。{b}さんに{given}個あげて、{c}さんからは何ももらいませんでした。"
    return text, f"{a}さんは今りんごを何個持っていますか。", f"{count - given}個", [f"{x}個" for x in [count, given, *range(1, 9)]]


def japanese(rng, index):
    text, question, answer, pool = story(rng, index)
    others = [x for x in dict.fromkeys(pool) if x != answer]
    # What the text mentions tempts most.
    tempting = [x for x in others if x in text][:3]
    rest = [x for x in others if x not in tempting]
    choices = [answer, *tempting, *rng.sample(rest, 3 - len(tempting))]
    rng.shuffle(choices)
    return {"passage": text, "question": question, "choices": choices, "label": choices.index(answer),
            "key": text + question}


# --- mini_math: word problems of one to three steps, with worked answers as in GSM8K.

NAMES = ["Anna", "Ben", "Carla", "David", "Elena", "Farid", "Grace", "Hiro", "Ines", "Jonas"]


def word_problem(rng, index):
    n = rng.choice(NAMES)
    a, b, c, d = rng.randint(3, 12), rng.randint(2, 9), rng.randint(2, 6), rng.randint(15, 60)
    price, paid = rng.randint(2, 9), rng.choice([20, 50, 100])
    kinds = [
        (f"{n} buys {a} notebooks for ${price} each. How many dollars does {n} pay?",
         [(f"{a} notebooks cost {a} * {price} = {a * price} dollars.", a * price)]),
        (f"{n} has {d} stamps and gives {b} of them to a friend. How many stamps does {n} have left?",
         [(f"{d} - {b} = {d - b} stamps are left.", d - b)]),
        (f"{n} buys {b} pens for ${c} each and pays with a ${paid} note. How many dollars does {n} get back?",
         [(f"The pens cost {b} * {c} = {b * c} dollars.", b * c),
          (f"{n} gets back {paid} - {b * c} = {paid - b * c} dollars.", paid - b * c)]),
        (f"A farmer has {a} rows of {b} apple trees. {c} trees fall in a storm. How many trees are left?",
         [(f"There were {a} * {b} = {a * b} trees.", a * b), (f"{a * b} - {c} = {a * b - c} trees are left.", a * b - c)]),
        (f"{n} reads {a} pages in the morning and twice as many in the evening. How many pages does {n} read in {b} such days?",
         [(f"In the evening {n} reads 2 * {a} = {2 * a} pages.", 2 * a),
          (f"In a day {n} reads {a} + {2 * a} = {3 * a} pages.", 3 * a),
          (f"In {b} days {n} reads {b} * {3 * a} = {3 * a * b} pages.", 3 * a * b)]),
        (f"A train has {b} coaches with {d} seats each. {a} seats in each coach are taken. How many seats are free in the train?",
         [(f"In each coach {d} - {a} = {d - a} seats are free.", d - a),
          (f"In the train {b} * {d - a} = {b * (d - a)} seats are free.", b * (d - a))]),
        (f"{n} bakes {a * c} cakes and puts them into {c} boxes with equally many. {b} boxes more are bought ready made, with {a} cakes each. "
         f"How many cakes are there in all?",
         [(f"The bought boxes have {b} * {a} = {a * b} cakes.", a * b),
          (f"In all there are {a * c} + {a * b} = {a * c + a * b} cakes.", a * c + a * b)]),
        (f"{n} saves ${price} a week for {a} weeks and then spends ${c} on a ticket. How many dollars are left?",
         [(f"{n} saves {a} * {price} = {a * price} dollars.", a * price),
          (f"{a * price} - {c} = {a * price - c} dollars are left.", a * price - c)]),
        (f"{n} runs {a} km on Monday, {b} km on Tuesday and, on Wednesday, {c} km more than on Monday. How many km does {n} run in all?",
         [(f"On Wednesday {n} runs {a} + {c} = {a + c} km.", a + c),
          (f"In all {n} runs {a} + {b} + {a + c} = {2 * a + b + c} km.", 2 * a + b + c)]),
        (f"A shop sells {a * b} eggs in boxes of {b}. Each box costs ${c}. How many dollars do all the boxes cost?",
         [(f"There are {a * b} / {b} = {a} boxes.", a), (f"They cost {a} * {c} = {a * c} dollars.", a * c)]),
    ]
    question, steps = kinds[index % len(kinds)]
    if any(value <= 0 for _, value in steps):
        return None
    answer = "\n".join([text for text, _ in steps] + [f"#### {steps[-1][1]}"])
    return {"question": question, "answer": answer}


# --- mini_sql: a small database, a question, a query. The first six kinds are those of builtin:sql.

TABLES = {
    "customers": (["name", "city"], ["age", "points"]),
    "orders": (["item", "status"], ["price", "year"]),
    "books": (["title", "author"], ["pages", "stock"]),
    "films": (["title", "director"], ["year", "length"]),
    "employees": (["name", "office"], ["salary", "age"]),
    "products": (["brand", "color"], ["price", "weight"]),
    "flights": (["origin", "status"], ["seats", "hours"]),
    "students": (["name", "school"], ["grade", "age"]),
}
WORDS = ["Paris", "Tokyo", "Lima", "Oslo", "open", "closed", "green", "Smith", "Tanaka", "north", "spring", "Delta"]


def table(rng, name):
    """The statements that make a table with rows, whose numbers are all different in a column."""
    texts, numbers = TABLES[name]
    words = rng.sample(WORDS, 4)
    rows = list(zip(range(1, 11), *[[rng.choice(words) for _ in range(10)] for _ in texts],
                    *[rng.sample(range(1, 100), 10) for _ in numbers]))
    columns = ", ".join(["id INTEGER PRIMARY KEY"] + [f"{c} TEXT" for c in texts] + [f"{c} INTEGER" for c in numbers])
    values = ", ".join("(" + ", ".join(repr(value) for value in row) + ")" for row in rows)
    return f"CREATE TABLE {name} ({columns}); INSERT INTO {name} VALUES {values};", words


def sql(rng, index):
    name = rng.choice(list(TABLES))
    texts, numbers = TABLES[name]
    script, words = table(rng, name)
    text, number, word, n, few = rng.choice(texts), rng.choice(numbers), rng.choice(words), rng.randint(1, 99), rng.randint(1, 4)
    other_text, other_number = (texts[1 - texts.index(text)], numbers[1 - numbers.index(number)])
    link = f"CREATE TABLE reviews (id INTEGER PRIMARY KEY, {name}_id INTEGER, stars INTEGER);"
    stars = ", ".join(f"({i}, {rng.randint(1, 10)}, {rng.randint(1, 5)})" for i in range(1, 9))
    linked = f"{script} {link} INSERT INTO reviews VALUES {stars};"
    kinds = [
        (script, f"List the {text} of {name} with {number} over {n}.", f"SELECT {text} FROM {name} WHERE {number} > {n}"),
        (script, f"List the {text} of {name} with {number} under {n}.", f"SELECT {text} FROM {name} WHERE {number} < {n}"),
        (script, f"How many {name} have {text} {word}?", f"SELECT COUNT(*) FROM {name} WHERE {text} = '{word}'"),
        (script, f"What is the average {number} of {name} with {text} {word}?",
         f"SELECT AVG({number}) FROM {name} WHERE {text} = '{word}'"),
        (script, f"Show the {few} {name} with the highest {number}.", f"SELECT * FROM {name} ORDER BY {number} DESC LIMIT {few}"),
        (script, f"Show the {text} of the {few} {name} with the lowest {number}.",
         f"SELECT {text} FROM {name} ORDER BY {number} LIMIT {few}"),
        (script, f"How many {name} are there for each {text}?", f"SELECT {text}, COUNT(*) FROM {name} GROUP BY {text}"),
        (script, f"Which different {text}s do the {name} have?", f"SELECT DISTINCT {text} FROM {name}"),
        (linked, f"List the {text} of all {name} that have a review with 5 stars, each once.",
         f"SELECT DISTINCT {text} FROM {name} JOIN reviews ON reviews.{name}_id = {name}.id WHERE stars = 5"),
        (script, f"What is the {other_number} of the {name} entry with the highest {number}?",
         f"SELECT {other_number} FROM {name} WHERE {number} = (SELECT MAX({number}) FROM {name})"),
    ]
    setup, question, query = kinds[index % len(kinds)]
    database = sqlite3.connect(":memory:")
    database.executescript(setup)
    rows = database.execute(query).fetchall()
    total = database.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0]
    # A result that is empty, everything or nothing known tells little.
    if not rows or rows[0][0] in (None, 0) or (" WHERE " in query and len(rows) == total):
        return None
    return {"setup": setup, "question": question, "query": query, "key": setup + question}


if __name__ == "__main__":
    write("mini_japanese", japanese, "key")
    write("mini_math", word_problem, "question")
    write("mini_sql", sql, "key")
    for name in ["mini_japanese", "mini_sql"]:
        path = HERE / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            del row["key"]
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
