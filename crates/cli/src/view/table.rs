//! Tables without lines: columns two spaces apart, numbers to the right.

use console::measure_text_width;

use wire::size;

use super::style::{Style, Tone, safe};

/// Widest cell, in columns: longer texts would push everything else off the screen.
const MAX_WIDTH: usize = 72;

/// One cell.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
    number: bool,
}

impl Cell {
    pub(crate) fn toned(text: impl AsRef<str>, tone: Tone) -> Self {
        let text = super::style::shorten(&safe(text.as_ref()), MAX_WIDTH).into_owned();
        Self { text, tone, number: false }
    }

    pub(crate) fn quiet(text: impl AsRef<str>) -> Self {
        Self::toned(text, Tone::Quiet)
    }

    /// A count; zero is of little interest.
    pub(crate) fn count(number: u64, tone: Tone) -> Self {
        let tone = if number == 0 { Tone::Quiet } else { tone };
        Self { text: number.to_string(), tone, number: true }
    }

    /// A number of bytes, for people.
    pub(crate) fn size(bytes: u64) -> Self {
        Self { text: size::rounded(bytes), ..Self::count(bytes, Tone::Plain) }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

impl From<&String> for Cell {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::count(number, Tone::Plain)
    }
}

/// Rows under a header, or (without one) names and values.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<Cell>>,
    has_header: bool,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        let header = header.iter().map(|name| Cell::toned(name, Tone::Heading)).collect();
        Self { rows: vec![header], has_header: true }
    }

    /// A name and a value in each row.
    pub(crate) fn fields() -> Self {
        Self::default()
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn field(&mut self, name: &str, value: impl Into<Cell>) {
        let mut value = value.into();
        value.number = false;
        self.rows.push(vec![Cell::quiet(format!("{name}:")), value]);
    }

    /// The table as lines, each indented by `indent` columns.
    pub(crate) fn render_indented(&self, style: Style, indent: usize) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let cells = |column: usize| self.rows.iter().filter_map(move |row| row.get(column));
        let widths: Vec<usize> = (0..columns)
            .map(|column| cells(column).map(|cell| measure_text_width(&cell.text)).max().unwrap_or_default())
            .collect();
        let to_the_right: Vec<bool> = (0..columns)
            .map(|column| cells(column).skip(usize::from(self.has_header)).all(|cell| cell.number))
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(indent);
            for (column, cell) in row.iter().enumerate() {
                let blank = " ".repeat(widths[column] - measure_text_width(&cell.text));
                let painted = style.paint(&cell.text, cell.tone);
                let gap = if column == 0 { "" } else { "  " };
                line += gap;
                line += &if to_the_right[column] { blank + &painted } else { painted + &blank };
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }

    pub(crate) fn render(&self, style: Style) -> String {
        self.render_indented(style, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_their_width() {
        let mut table = Table::new(&["NAME", "AGENTS", "NOTE"]);
        table.row(["wéb-日本".into(), 7_u64.into(), "x".into()]);
        table.row(["b".into(), 1234_u64.into(), Cell::default()]);
        let style = Style::now(false);
        assert_eq!(table.render(style), "NAME      AGENTS  NOTE\nwéb-日本       7  x\nb           1234\n");
        let mut fields = Table::fields();
        fields.field("Name", "web");
        fields.field("Agents", 3_u64);
        assert_eq!(fields.render_indented(style, 2), "  Name:    web\n  Agents:  3\n");
    }

    #[test]
    fn cells_are_bounded_and_harmless() {
        let cell = Cell::from("\u{1b}[31m".to_owned() + &"x".repeat(500));
        assert_eq!(measure_text_width(&cell.text), MAX_WIDTH);
        assert!(cell.text.starts_with("\\u{1b}[31m") && cell.text.ends_with('…'));
    }
}
