//! Charts as SVG files of their own, for papers and slides: in the page's light colours, with title and legend inside, and
//! without what only browsers understand.

use std::fmt::{self, Write};

use super::Curve;
use super::axis::Scale;
use super::number::Text;
use super::plot::{self, HEIGHT, NAMED_SERIES, WIDTH};

/// Space above the chart for its title.
const TITLE: f64 = 30.0;
/// Height of a line of the legend.
const LINE: f64 = 18.0;
/// About the width of a letter.
const LETTER: f64 = 6.4;

/// A chart as a file; nothing when no series has a finite point.
pub(super) fn file(curve: &Curve, y: Option<Scale>) -> Option<String> {
    let mut out = String::new();
    draw(&mut out, curve, &plot::frame(curve, y)?).expect("writing to a String cannot fail");
    Some(out)
}

fn draw(out: &mut String, curve: &Curve, frame: &plot::Frame) -> fmt::Result {
    let mut legend = String::new();
    let lines = if curve.series.len() > NAMED_SERIES {
        ramp(&mut legend, curve)?
    } else {
        names(&mut legend, curve)?
    };
    let height = TITLE + HEIGHT + LINE * lines as f64 + 8.0;
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\">"
    )?;
    writeln!(out, "<style>{}</style>", style())?;
    writeln!(out, "<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"{}\"/>", colour("bg"))?;
    writeln!(out, "<text class=\"title\" x=\"10\" y=\"20\">{}</text>", Text(&curve.name))?;
    write!(out, "<g transform=\"translate(0 {TITLE})\">")?;
    plot::svg(out, curve, frame)?;
    writeln!(out, "</g>\n<g transform=\"translate(0 {})\">{legend}</g>\n</svg>", TITLE + HEIGHT + 14.0)
}

/// Names with their colours, from left to right; returns the number of lines.
fn names(out: &mut String, curve: &Curve) -> Result<usize, fmt::Error> {
    let (mut x, mut line) = (10.0, 0);
    for (i, series) in curve.series.iter().enumerate() {
        let width = 38.0 + LETTER * series.name.chars().count() as f64;
        if x > 10.0 && x + width > WIDTH {
            (x, line) = (10.0, line + 1);
        }
        let y = LINE * line as f64;
        write!(out, "<path class=\"line\" data-c=\"{i}\" d=\"M{x} {}h16\"/>", y - 4.0)?;
        write!(out, "<text x=\"{}\" y=\"{y}\">{}</text>", x + 22.0, Text(&series.name))?;
        x += width;
    }
    Ok(line + 1)
}

/// The first and the last name with the colours between them; returns the number of lines.
fn ramp(out: &mut String, curve: &Curve) -> Result<usize, fmt::Error> {
    let n = curve.series.len();
    let (first, last) = (&curve.series[0].name, &curve.series[n - 1].name);
    let start = 20.0 + LETTER * first.chars().count() as f64;
    let step = 90.0 / n as f64;
    write!(out, "<text x=\"10\" y=\"0\">{}</text>", Text(first))?;
    for i in 0..n {
        let (x, colour) = (start + step * i as f64, plot::ramp(i, n));
        write!(
            out,
            "<rect x=\"{x:.1}\" y=\"-8\" width=\"{:.1}\" height=\"6\" fill=\"{colour}\"/>",
            step + 0.1
        )?;
    }
    write!(out, "<text x=\"{}\" y=\"0\">{}</text>", start + 98.0, Text(last))?;
    Ok(1)
}

fn style() -> String {
    let (ink, soft, rule) = (colour("ink"), colour("soft"), colour("rule"));
    let series: String = (0..NAMED_SERIES)
        .map(|i| format!("[data-c=\"{i}\"]{{color:{}}}", colour(&format!("c{i}"))))
        .collect();
    format!(
        "text{{font:12px sans-serif;fill:{ink}}}.title{{font-weight:600}}.tick,.name{{fill:{soft}}}\
         .mid{{text-anchor:middle}}.end{{text-anchor:end}}.grid{{stroke:{rule};fill:none}}.axis{{stroke:{soft};fill:none}}\
         .line{{fill:none;stroke:currentColor;stroke-width:1.8}}.raw{{stroke-width:1;opacity:0.3}}\
         .error{{fill:none;stroke:currentColor;stroke-width:1.2;opacity:0.6}}.dot{{fill:currentColor}}{series}"
    )
}

/// A colour of the page's light theme, which its style sheet names first.
fn colour(name: &str) -> &'static str {
    let sheet = include_str!("style.css");
    let value = sheet.split_once(&format!("--{name}: ")).and_then(|(_, rest)| rest.split_once(';'));
    value.map_or("black", |(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Series;

    fn curve(series: usize) -> Curve {
        let named = |i| Series::new(format!("series <{i}> of some length"), vec![(0.0, 1.0), (1.0, 2.0)]);
        Curve {
            name: "Loss & more".into(),
            x_label: "x".into(),
            y_label: "y".into(),
            series: (0..series).map(named).collect(),
        }
    }

    #[test]
    fn files_stand_alone() {
        let few = file(&curve(3), None).unwrap();
        assert!(few.starts_with("<svg xmlns=") && few.contains("Loss &amp; more"), "{few}");
        assert!(!few.contains("var(") && few.contains("[data-c=\"5\"]{color:#5f7180}"), "{few}");
        // Three long names need two lines.
        assert!(few.contains("y=\"18\">series &lt;2&gt;"), "{few}");
        let many = file(&curve(9), None).unwrap();
        assert_eq!(many.matches("<rect").count(), 1 + 9);
        assert_eq!(file(&Curve { series: Vec::new(), ..curve(0) }, None), None);
    }
}
