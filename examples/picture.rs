//! Draws the README's picture: what the first merge scores, and the coefficients it learnt.
//!
//! ```text
//! cargo run --release --example picture [FILE.svg]
//! ```

use anyhow::{Context, Result};
use dam_prelude::show::Scoreboard;
use dam_prelude::{Columns, Schedule, load};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const SKILLS: [&str; 4] = ["japanese", "math", "sql", "japanese-math"];
const TENSOR: &str = "model.layers.1.self_attn.o_proj.weight";

/// Colours that the colour-blind tell apart (Okabe and Ito): three sources, their average, DAM.
const COLOURS: [RGBColor; 5] =
    [RGBColor(86, 180, 233), RGBColor(230, 159, 0), RGBColor(0, 158, 115), RGBColor(170, 170, 170), RGBColor(213, 94, 0)];
const INK: RGBColor = RGBColor(50, 50, 50);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn main() -> Result<()> {
    let file = std::env::args().nth(1).unwrap_or_else(|| "examples/first_merge.svg".into());
    let mut models = load(["builtin:japanese", "builtin:math", "builtin:sql"])?;
    models.settings.lr = 1e-2;
    models.settings.batch_size = 8;
    models.settings.schedule = Schedule::Linear;
    models.settings.warmup = 5;
    models.settings.total_steps = 150;
    let dam = models.wrap(Columns::default())?;
    println!("{}", dam.train(150)?);
    let board = dam.scoreboard(&[])?;
    println!("{board}");
    let coefficients: Vec<Vec<f32>> = dam.coefficients(TENSOR)?.to_vec2()?;

    let root = SVGBackend::new(&file, (1040, 400)).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, right) = root.split_horizontally(560);
    bars(&left, &board)?;
    strips(&right, &coefficients)?;
    root.present()?;
    println!("drawn to {file}");
    Ok(())
}

fn words(size: i32, colour: &RGBColor, at: HPos) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(colour).pos(Pos::new(at, VPos::Center))
}

fn title(area: &Area, text: &str) -> Result<()> {
    area.draw(&Text::new(text.to_owned(), (20, 24), words(17, &INK, HPos::Left)))?;
    Ok(())
}

/// Exact match, a group of bars for each data set.
fn bars(area: &Area, board: &Scoreboard) -> Result<()> {
    const HEIGHT: i32 = 230;
    const BOTTOM: i32 = 300;
    title(area, "Questions answered exactly, held out")?;
    for percent in [0, 50, 100] {
        let y = BOTTOM - HEIGHT * percent / 100;
        area.draw(&PathElement::new([(50, y), (545, y)], RGBColor(225, 225, 225)))?;
        area.draw(&Text::new(format!("{percent}%"), (44, y), words(13, &INK, HPos::Right)))?;
    }
    for (group, skill) in SKILLS.iter().enumerate() {
        let left = 62 + 124 * group as i32;
        for (i, (model, scores)) in board.rows.iter().enumerate() {
            let exact = scores.data.get(*skill).and_then(|s| s.exact_match).with_context(|| format!("{model} has no {skill}"))?;
            let (x, height) = (left + 21 * i as i32, ((f64::from(HEIGHT) * exact) as i32).max(2));
            area.draw(&Rectangle::new([(x, BOTTOM - height), (x + 17, BOTTOM)], COLOURS[i].filled()))?;
        }
        area.draw(&Text::new((*skill).to_owned(), (left + 50, BOTTOM + 18), words(14, &INK, HPos::Center)))?;
    }
    for (i, (model, _)) in board.rows.iter().enumerate() {
        let x = 62 + 100 * i as i32;
        area.draw(&Rectangle::new([(x, 354), (x + 12, 366)], COLOURS[i].filled()))?;
        area.draw(&Text::new(model.clone(), (x + 18, 360), words(14, &INK, HPos::Left)))?;
    }
    Ok(())
}

/// The coefficients of one tensor: a strip for each source, a line for each column.
fn strips(area: &Area, coefficients: &[Vec<f32>]) -> Result<()> {
    const WIDTH: f32 = 384.0;
    title(area, "What came from whom: the coefficients of one tensor")?;
    for (i, row) in coefficients.iter().enumerate() {
        let top = 70 + 78 * i as i32;
        area.draw(&Text::new(SKILLS[i].to_owned(), (80, top + 31), words(14, &INK, HPos::Right)))?;
        for (j, c) in row.iter().enumerate() {
            let x = |j: usize| 90 + (WIDTH * j as f32 / row.len() as f32) as i32;
            area.draw(&Rectangle::new([(x(j), top), (x(j + 1), top + 62)], shade(*c).filled()))?;
        }
    }
    for (i, c) in [0.0, 1.0 / 3.0, 2.0 / 3.0].into_iter().enumerate() {
        let x = 90 + 110 * i as i32;
        area.draw(&Rectangle::new([(x, 354), (x + 12, 366)], shade(c).filled()))?;
        area.draw(&Text::new(format!("c = {}", ["0", "1/3", "2/3"][i]), (x + 18, 360), words(14, &INK, HPos::Left)))?;
    }
    area.draw(&Text::new(TENSOR, (90, 318), words(13, &INK, HPos::Left)))?;
    Ok(())
}

/// Light for 0, dark for 2/3 and more.
fn shade(c: f32) -> RGBColor {
    let t = (c * 1.5).clamp(0.0, 1.0);
    let mix = |from: f32, to: f32| (from + t * (to - from)) as u8;
    RGBColor(mix(253.0, 63.0), mix(246.0, 0.0), mix(227.0, 80.0))
}
