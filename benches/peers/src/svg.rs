//! Durable puts as a picture: a panel for each number of threads, a bar for each store, a line at F.

use std::fmt::Write;

use crate::bars::{FLOOR, rate};
use crate::report::Row;
use crate::rounds::Measured;

/// Rows whose name begins so are drawn.
const DRAWN: &str = "engine durable put";
const WIDTH: f64 = 860.0;
const LABELS: f64 = 220.0;
const FIGURES: f64 = 110.0;
const BAR: f64 = 20.0;
const GAP: f64 = 6.0;
const HEAD: f64 = 34.0;

/// The rows of durable puts, drawn; nothing if there are none.
pub(crate) fn draw(rows: &[Row], title: &str) -> Option<String> {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.row.starts_with(DRAWN)).collect();
    let bars = rows.iter().map(|row| row.cells.len()).sum::<usize>() as f64;
    let height = HEAD + rows.len() as f64 * HEAD + bars * (BAR + GAP) + GAP;
    let mut svg = String::new();
    // Writing to a string does not fail.
    let _ = write_all(&mut svg, &rows, title, height);
    (!rows.is_empty()).then_some(svg)
}

fn write_all(svg: &mut String, rows: &[&Row], title: &str, height: f64) -> std::fmt::Result {
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">"#
    )?;
    writeln!(svg, r##"<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>"##)?;
    writeln!(svg, r##"<text x="10" y="22" font-size="15" fill="#222">{}</text>"##, escaped(title))?;
    let mut y = HEAD;
    for row in rows {
        writeln!(
            svg,
            r##"<text x="10" y="{}" font-weight="bold" fill="#222">{}</text>"##,
            y + 20.0,
            escaped(&row.row)
        )?;
        y += HEAD;
        let most = row.cells.iter().filter_map(Measured::rate).fold(f64::MIN_POSITIVE, f64::max);
        let length = |per_second: f64| (WIDTH - LABELS - FIGURES) * per_second / most;
        let top = y;
        for cell in &row.cells {
            write_bar(svg, cell, y, length)?;
            y += BAR + GAP;
        }
        if let Some(floor) = row.cells.iter().find(|cell| cell.name == FLOOR).and_then(Measured::rate) {
            let x = LABELS + length(floor);
            let bottom = y - GAP;
            writeln!(svg, r##"<path d="M{x:.1} {top}V{bottom}" stroke="#888" stroke-dasharray="3 3"/>"##)?;
        }
    }
    writeln!(svg, "</svg>")
}

fn write_bar(svg: &mut String, cell: &Measured, y: f64, length: impl Fn(f64) -> f64) -> std::fmt::Result {
    let base = y + 15.0;
    let name = escaped(&cell.name);
    writeln!(svg, r##"<text x="{}" y="{base}" text-anchor="end" fill="#222">{name}</text>"##, LABELS - 8.0)?;
    let Some(spread) = cell.per_second else {
        return writeln!(svg, r##"<text x="{LABELS}" y="{base}" fill="#888">not measured</text>"##);
    };
    let fill = match cell.name.as_str() {
        "Seawall" => "#1f6f8b",
        FLOOR => "#bbbbbb",
        _ => "#a9bcc6",
    };
    let width = length(spread.median).max(1.0);
    writeln!(svg, r#"<rect x="{LABELS}" y="{y}" width="{width:.1}" height="{BAR}" fill="{fill}"/>"#)?;
    let said = match cell.durable {
        Some(false) => format!("{}, not durable", rate(spread.median)),
        _ => rate(spread.median),
    };
    writeln!(svg, r##"<text x="{:.1}" y="{base}" fill="#222">{said}</text>"##, LABELS + width + 6.0)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Spread;

    fn cell(name: &str, per_second: f64) -> Measured {
        let spread = Spread { median: per_second, min: per_second, max: per_second };
        Measured { name: name.into(), per_second: Some(spread), durable: None, failed: None, rounds: Vec::new() }
    }

    #[test]
    fn the_longest_bar_fills_the_panel_and_f_is_a_line() {
        let cells = vec![cell("Seawall", 2000.0), cell("a < b", 500.0), cell(FLOOR, 1000.0)];
        let rows = [Row::new("engine durable put, 1 thread", &[], cells), Row::new("other", &[], Vec::new())];
        let svg = draw(&rows, "Durable puts & more").unwrap();
        assert!(svg.contains(r#"width="530.0""#) && svg.contains(r#"width="132.5""#), "{svg}");
        assert!(svg.contains("M485.0 "), "F at half of the panel");
        assert!(svg.contains("a &lt; b") && svg.contains("puts &amp; more") && !svg.contains(">other<"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }

    #[test]
    fn without_durable_puts_there_is_no_picture() {
        assert_eq!(draw(&[], "nothing"), None);
    }
}
