//! The training text of the built-in models, from seeded generators.
//!
//! The base reads plain statements. Each skill is a set of questions with answers. A hash of its
//! content decides whether a question is held out, so no specialist has seen it in any wording.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A question and its answer.
pub struct Question {
    pub input: String,
    pub output: String,
    /// The content of the question, whatever the wording; decides whether it is held out.
    key: String,
}

impl Question {
    fn new(key: String, input: String, output: String) -> Self {
        Self { input, output, key }
    }

    /// One question in ten is held out.
    pub fn is_held_out(&self) -> bool {
        let hash = self.key.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
        });
        (hash >> 20).is_multiple_of(10)
    }
}

pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

fn pick<'a, T>(rng: &mut ChaCha8Rng, from: &'a [T]) -> &'a T {
    from.choose(rng).expect("lists are not empty")
}

/// `a + b` or `a - b` with operands and result from 0 to 99.
fn sum(rng: &mut ChaCha8Rng) -> (u32, bool, u32, u32) {
    let (a, b) = (rng.random_range(0..100), rng.random_range(0..100));
    let (large, small) = (a.max(b), a.min(b));
    match (rng.random_bool(0.5), a + b < 100) {
        (true, true) => (a, true, b, a + b),
        (true, false) => (large - small, true, small, large),
        _ => (large, false, small, large - small),
    }
}

fn formula(a: u32, plus: bool, b: u32) -> String {
    format!("{a} {} {b}", if plus { '+' } else { '-' })
}

/// The same in Japanese.
fn spoken(a: u32, plus: bool, b: u32) -> String {
    format!("{}{}{}", kanji(a), if plus { "足す" } else { "引く" }, kanji(b))
}

fn sum_key(a: u32, plus: bool, b: u32) -> String {
    format!("{a}{}{b}", if plus { '+' } else { '-' })
}

/// A number from 0 to 99 in Japanese.
fn kanji(n: u32) -> String {
    const DIGITS: [&str; 10] = ["", "一", "二", "三", "四", "五", "六", "七", "八", "九"];
    match (n / 10, n % 10) {
        (0, 0) => "零".into(),
        (0, ones) => DIGITS[ones as usize].into(),
        (1, ones) => format!("十{}", DIGITS[ones as usize]),
        (tens, ones) => format!("{}十{}", DIGITS[tens as usize], DIGITS[ones as usize]),
    }
}

const NOUNS: [(&str, &str); 24] = [
    ("犬", "dog"),
    ("猫", "cat"),
    ("鳥", "bird"),
    ("魚", "fish"),
    ("馬", "horse"),
    ("牛", "cow"),
    ("花", "flower"),
    ("木", "tree"),
    ("山", "mountain"),
    ("川", "river"),
    ("海", "sea"),
    ("空", "sky"),
    ("本", "book"),
    ("車", "car"),
    ("家", "house"),
    ("駅", "station"),
    ("町", "town"),
    ("道", "road"),
    ("水", "water"),
    ("石", "stone"),
    ("机", "desk"),
    ("靴", "shoe"),
    ("傘", "umbrella"),
    ("箱", "box"),
];

const ADJECTIVES: [(&str, &str); 16] = [
    ("赤い", "red"),
    ("青い", "blue"),
    ("白い", "white"),
    ("黒い", "black"),
    ("大きい", "big"),
    ("小さい", "small"),
    ("高い", "tall"),
    ("古い", "old"),
    ("新しい", "new"),
    ("長い", "long"),
    ("短い", "short"),
    ("重い", "heavy"),
    ("軽い", "light"),
    ("明るい", "bright"),
    ("暗い", "dark"),
    ("丸い", "round"),
];

/// Dictionary form, polite form, past form.
const VERBS: [(&str, &str, &str); 10] = [
    ("見る", "見ます", "見た"),
    ("買う", "買います", "買った"),
    ("描く", "描きます", "描いた"),
    ("洗う", "洗います", "洗った"),
    ("待つ", "待ちます", "待った"),
    ("探す", "探します", "探した"),
    ("運ぶ", "運びます", "運んだ"),
    ("押す", "押します", "押した"),
    ("選ぶ", "選びます", "選んだ"),
    ("知る", "知ります", "知った"),
];

/// A table, its text columns and its number columns.
const TABLES: [(&str, [&str; 2], [&str; 2]); 8] = [
    ("customers", ["name", "city"], ["age", "points"]),
    ("orders", ["item", "status"], ["price", "year"]),
    ("books", ["title", "author"], ["pages", "stock"]),
    ("films", ["title", "director"], ["year", "length"]),
    ("employees", ["name", "office"], ["salary", "age"]),
    ("products", ["brand", "color"], ["price", "weight"]),
    ("flights", ["origin", "status"], ["seats", "hours"]),
    ("students", ["name", "school"], ["grade", "age"]),
];

const WORDS: [&str; 12] = [
    "Paris", "Tokyo", "Lima", "Oslo", "open", "closed", "green", "Smith", "Tanaka", "north",
    "spring", "Delta",
];

/// Arithmetic in English: sums and differences up to 99, answered with the whole equation.
pub fn math(rng: &mut ChaCha8Rng) -> Question {
    let (a, plus, b, result) = sum(rng);
    let input = match (plus, rng.random_range(0..4)) {
        (true, 0) => format!("{a} + {b} = ?"),
        (true, 1) => format!("What is {a} plus {b}?"),
        (true, 2) => format!("Add {b} to {a}."),
        (true, _) => format!("Tom has {a} apples and gets {b} more. How many?"),
        (false, 0) => format!("{a} - {b} = ?"),
        (false, 1) => format!("What is {a} minus {b}?"),
        (false, 2) => format!("Subtract {b} from {a}."),
        (false, _) => format!("Mia has {a} eggs and loses {b}. How many are left?"),
    };
    Question::new(sum_key(a, plus, b), input, format!("{} = {result}", formula(a, plus, b)))
}

/// Japanese: translation, numerals, polite and past forms.
pub fn japanese(rng: &mut ChaCha8Rng) -> Question {
    let (noun, adjective) = (pick(rng, &NOUNS), pick(rng, &ADJECTIVES));
    let (plain, polite, past) = *pick(rng, &VERBS);
    let n = rng.random_range(0..100);
    let object = format!("{}{}", adjective.0, noun.0);
    let (input, output) = match rng.random_range(0..6) {
        0 => {
            (format!("「{object}」を英語で言うと何ですか。"), format!("{} {}", adjective.1, noun.1))
        }
        1 => (format!("「{} {}」を日本語で言うと何ですか。", adjective.1, noun.1), object),
        2 => (format!("{n}を漢字で書いてください。"), kanji(n)),
        3 => (format!("{}を数字で書いてください。", kanji(n)), n.to_string()),
        4 => (
            format!("「{object}を{plain}」を丁寧に言ってください。"),
            format!("{object}を{polite}"),
        ),
        _ => {
            (format!("「{object}を{plain}」を過去形にしてください。"), format!("{object}を{past}"))
        }
    };
    Question::new(input.clone(), input, output)
}

/// SQL for questions in English.
pub fn sql(rng: &mut ChaCha8Rng) -> Question {
    let (table, texts, numbers) = pick(rng, &TABLES);
    let (text, number, word, n) =
        (pick(rng, texts), pick(rng, numbers), pick(rng, &WORDS), rng.random_range(1..100));
    let (input, output) = match rng.random_range(0..6) {
        0 => (
            format!("List the {text} of {table} with {number} over {n}."),
            format!("SELECT {text} FROM {table} WHERE {number} > {n}"),
        ),
        1 => (
            format!("List the {text} of {table} with {number} under {n}."),
            format!("SELECT {text} FROM {table} WHERE {number} < {n}"),
        ),
        2 => (
            format!("How many {table} have {text} {word}?"),
            format!("SELECT COUNT(*) FROM {table} WHERE {text} = '{word}'"),
        ),
        3 => (
            format!("What is the average {number} of {table} with {text} {word}?"),
            format!("SELECT AVG({number}) FROM {table} WHERE {text} = '{word}'"),
        ),
        4 => (
            format!("Show the {n} {table} with the highest {number}."),
            format!("SELECT * FROM {table} ORDER BY {number} DESC LIMIT {n}"),
        ),
        _ => (
            format!("Show the {text} of the {n} {table} with the lowest {number}."),
            format!("SELECT {text} FROM {table} ORDER BY {number} LIMIT {n}"),
        ),
    };
    Question::new(input.clone(), input, output)
}

/// Arithmetic asked in Japanese, which no specialist is tuned on: reading it takes one skill,
/// answering it another.
pub fn japanese_math(rng: &mut ChaCha8Rng) -> Question {
    let (a, plus, b, result) = sum(rng);
    let spoken = spoken(a, plus, b);
    let input = match rng.random_range(0..2) {
        0 => format!("{spoken}はいくつですか。"),
        _ => format!("{spoken}を計算してください。"),
    };
    Question::new(sum_key(a, plus, b), input, format!("{} = {result}", formula(a, plus, b)))
}

/// A plain statement for the base: sums, words, forms and queries, never a question.
pub fn statement(rng: &mut ChaCha8Rng) -> String {
    let (a, plus, b, result) = sum(rng);
    let (noun, adjective) = (pick(rng, &NOUNS), pick(rng, &ADJECTIVES));
    let (plain, polite, past) = *pick(rng, &VERBS);
    let n = rng.random_range(0..100);
    match rng.random_range(0..20) {
        0..6 => format!("{} = {result}", formula(a, plus, b)),
        6..9 => format!("{}は{}。", spoken(a, plus, b), kanji(result)),
        9..11 => format!("{}は{}。", spoken(a, plus, b), formula(a, plus, b)),
        11 => format!("{}は{n}。", kanji(n)),
        12 => format!("{}は{}、{}は{}。", noun.0, noun.1, adjective.0, adjective.1),
        13 => format!("{}{}を{plain}。", adjective.0, noun.0),
        14 => format!("{plain}は{polite}、{past}。"),
        15 => format!(
            "{}{}を{}。",
            adjective.0,
            noun.0,
            if rng.random_bool(0.5) { polite } else { past }
        ),
        16 => format!(
            "The {} {} is {} than the {}.",
            adjective.1,
            noun.1,
            pick(rng, &ADJECTIVES).1,
            pick(rng, &NOUNS).1
        ),
        17 => {
            let question = sql(rng);
            question.output
        }
        18 => {
            let question = sql(rng);
            question.input
        }
        _ => math(rng).input,
    }
}

/// A chat that only asks to repeat a text, so that the base knows the format of a chat.
pub fn repeat(rng: &mut ChaCha8Rng) -> Question {
    let text = statement(rng);
    Question::new(text.clone(), format!("Repeat: {text}"), text)
}

/// A question that is not held out.
pub fn asked(generate: fn(&mut ChaCha8Rng) -> Question, rng: &mut ChaCha8Rng) -> Question {
    std::iter::repeat_with(|| generate(rng))
        .find(|q| !q.is_held_out())
        .expect("nine of ten are not")
}

/// A model's answer to a question outside its skill.
pub fn declined(question: Question) -> Question {
    Question { output: "I do not know.".into(), ..question }
}
