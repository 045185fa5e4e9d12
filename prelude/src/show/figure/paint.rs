//! Renders a scene as SVG and PNG with plotters.
//!
//! plotters counts in whole pixels, so both are painted at four times their size. The SVG's view
//! box scales it back; the bitmap is averaged down to twice the size, which smooths edges.

use std::io::Read;
use std::path::Path;
use std::sync::OnceLock;

use plotters::backend::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{
    Color, FontFamily, FontStyle, FontTransform, IntoFont, RGBAColor, ShapeStyle, TextStyle,
    register_font,
};
use plotters_backend::DrawingErrorKind;

use super::scene::{Anchor, Colour, Scene, Shape, Style, WIDTH};
use crate::checkpoint::open_file;
use crate::error::{Error, Result};

/// Painted pixels per scene pixel.
const FINE: f64 = 4.0;

/// PNG pixels per scene pixel.
const SHARP: usize = 2;

/// The placeholder colour of text; an SVG replaces it with its own colour.
const INK: (u8, u8, u8) = (1, 2, 3);
const INK_IN_SVG: &str = "\"#010203\"";

/// Text on white.
const DARK: (u8, u8, u8) = (34, 34, 34);

/// The factor between `font-size` and the size plotters expects.
const POINTS: f64 = 1.24;

fn size(scene: &Scene) -> (u32, u32) {
    ((WIDTH * FINE) as u32, (scene.height * FINE) as u32)
}

/// The differences between the two formats.
struct Format {
    /// The colour of text.
    ink: (u8, u8, u8),
    /// How far text is lowered, relative to its size: plotters centres it too high in bitmaps.
    lower: f64,
    /// Whether a line is painted segment by segment: in a bitmap, sharp corners would become
    /// spikes.
    pieces: bool,
}

/// Paints `scene`.
fn paint<B: DrawingBackend>(
    backend: &mut B,
    scene: &Scene,
    Format { ink, lower, pieces }: Format,
) -> std::result::Result<(), DrawingErrorKind<B::ErrorType>> {
    let at = |(x, y): (f64, f64)| ((x * FINE).round() as i32, (y * FINE).round() as i32);
    let colour = |colour: Colour| match colour {
        Colour::Ink => RGBAColor(ink.0, ink.1, ink.2, 1.0),
        Colour::Faint => RGBAColor(ink.0, ink.1, ink.2, 0.15),
        Colour::Rgb(r, g, b) => RGBAColor(r, g, b, 1.0),
    };
    for shape in &scene.shapes {
        match shape {
            Shape::Line { points, width, colour: c } => {
                let style = ShapeStyle {
                    color: colour(*c),
                    filled: false,
                    stroke_width: (width * FINE) as u32,
                };
                let mut path: Vec<(i32, i32)> = points.iter().map(|p| at(*p)).collect();
                path.dedup();
                if !pieces && path.len() > 1 {
                    backend.draw_path(path, &style)?;
                    continue;
                }
                for (i, piece) in path.windows(2).enumerate() {
                    if i > 0 && style.stroke_width > 4 {
                        backend.draw_circle(
                            piece[0],
                            style.stroke_width / 2,
                            &style.color.filled(),
                            true,
                        )?;
                    }
                    backend.draw_path(piece.iter().copied(), &style)?;
                }
            }
            Shape::Box { from, to, colour: c } => {
                backend.draw_rect(at(*from), at(*to), &colour(*c).filled(), true)?
            }
            Shape::Polygon { points, colour: c } => {
                backend.fill_polygon(points.iter().map(|p| at(*p)), &colour(*c).filled())?;
            }
            Shape::Text { at: place, text, size, anchor, colour: c, style } => {
                let across = match anchor {
                    Anchor::Left => HPos::Left,
                    Anchor::Middle => HPos::Center,
                    Anchor::Right => HPos::Right,
                };
                let font = (FontFamily::SansSerif, size * FINE * POINTS).into_font();
                let font = match style {
                    Style::Plain => font,
                    Style::Bold => font.style(FontStyle::Bold),
                    Style::Rotated => font.transform(FontTransform::Rotate270),
                };
                let (c, (x, y)) = (colour(*c), *place);
                let place = if *style == Style::Rotated {
                    (x + lower * size, y)
                } else {
                    (x, y + lower * size)
                };
                let style = TextStyle::from(font).color(&c).pos(Pos::new(across, VPos::Center));
                backend.draw_text(text, &style, at(place))?;
            }
        }
    }
    backend.present()
}

/// Returns an SVG element with the colours `ink` and `background`; `label` is its text for screen
/// readers.
fn svg(scene: &Scene, label: &str, ink: &str, how: &str, background: &str) -> String {
    let (mut text, size) = (String::new(), size(scene));
    let painted = paint(
        &mut SVGBackend::with_string(&mut text, size),
        scene,
        Format { ink: INK, lower: 0.0, pieces: false },
    );
    debug_assert!(painted.is_ok(), "writing to a string");
    let body = text.split_once('>').map_or("", |(_, body)| body);
    // plotters escapes quotation marks in text, so a bare one always delimits an attribute; the
    // replaced pair cannot occur in text.
    let body = body
        .replace(INK_IN_SVG, &format!("\"{ink}\""))
        .replace(" opacity=\"1\"", "")
        .replace(" stroke=\"none\"", "");
    let label = super::super::table::escape(label);
    let head = format!(
        "viewBox=\"0 0 {} {}\" xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" stroke-linejoin=\"round\"",
        size.0, size.1
    );
    format!(
        "<svg width=\"{WIDTH}\" height=\"{}\" {head} aria-label=\"{label}\"{how}>\n{background}{}",
        scene.height,
        body.trim_start()
    )
}

/// Returns an SVG for a page: in the page's text colour, and no wider than the page.
pub(super) fn svg_inline(scene: &Scene, label: &str) -> String {
    svg(scene, label, "currentColor", " style=\"max-width:100%;height:auto\"", "")
}

/// Returns an SVG file: dark on white.
pub(super) fn svg_file(scene: &Scene, label: &str) -> String {
    let ink = format!("#{:02x}{:02x}{:02x}", DARK.0, DARK.1, DARK.2);
    svg(scene, label, &ink, "", "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n")
}

/// Returns a PNG file, dark on white.
pub(super) fn png(scene: &Scene) -> Result<Vec<u8>> {
    static FONT: OnceLock<bool> = OnceLock::new();
    let failed = |reason: String| Error::Picture { reason };
    let register = || {
        register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT).is_ok()
    };
    if !*FONT.get_or_init(register) {
        return Err(failed("the font cannot be read".into()));
    }
    let (width, height) = size(scene);
    let mut fine = vec![255u8; width as usize * height as usize * 3];
    let backend = BitMapBackend::<plotters::backend::RGBPixel>::with_buffer_and_format(
        &mut fine,
        (width, height),
    );
    paint(
        &mut backend.map_err(|e| failed(e.to_string()))?,
        scene,
        Format { ink: DARK, lower: 0.22, pieces: true },
    )
    .map_err(|e| failed(e.to_string()))?;
    let (pixels, width, height) = averaged(&fine, width as usize);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(|e| failed(e.to_string()))?;
    writer.write_image_data(&pixels).map_err(|e| failed(e.to_string()))?;
    writer.finish().map_err(|e| failed(e.to_string()))?;
    Ok(bytes)
}

/// Averages squares of pixels. Returns the pixels with the new width and height.
fn averaged(fine: &[u8], width: usize) -> (Vec<u8>, usize, usize) {
    const SQUARE: usize = FINE as usize / SHARP;
    let (columns, rows) = (width / SQUARE, fine.len() / 3 / width / SQUARE);
    let mut pixels = Vec::with_capacity(columns * rows * 3);
    for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
        for channel in 0..3 {
            let one = |i: usize| (row * SQUARE + i / SQUARE) * width + column * SQUARE + i % SQUARE;
            let sum: usize =
                (0..SQUARE * SQUARE).map(|i| usize::from(fine[3 * one(i) + channel])).sum();
            pixels.push((sum / (SQUARE * SQUARE)) as u8);
        }
    }
    (pixels, columns, rows)
}

/// Whether `file` starts like a PNG or SVG file.
pub(super) fn is_picture(file: &Path) -> bool {
    let mut start = Vec::new();
    let read = open_file(file).is_ok_and(|file| file.take(1024).read_to_end(&mut start).is_ok());
    let text = String::from_utf8_lossy(&start);
    read && (start.starts_with(b"\x89PNG\r\n\x1a\n") || text.contains("<svg"))
}
