//! A disk as a grid of cells, each for the same number of bytes.

use std::io::{self, IsTerminal};

/// Most rows of a picture.
const ROWS_MAX: u64 = 16;
/// Most cells in a row.
pub(crate) const COLUMNS_MAX: u64 = 128;
/// Fewest bytes in a cell.
const CELL_MIN: u64 = 4096;

/// Who has the bytes of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The image itself.
    Top,
    /// An image below it.
    Below,
}

/// How a picture is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Letters that every terminal and file takes.
    Plain,
    /// Colours and blocks.
    Colour,
}

impl Style {
    /// Colours on a terminal that has them, unless the environment says no (`NO_COLOR`).
    pub(crate) fn for_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_none_or(|value| value == "dumb");
        if io::stdout().is_terminal() && !refused {
            Self::Colour
        } else {
            Self::Plain
        }
    }
}

/// Cells that fit on the terminal, or on 80 columns where there is none.
pub(crate) fn columns_of_stdout() -> u64 {
    let size = console::Term::stdout().size_checked();
    size.map_or(80, |(_, columns)| u64::from(columns))
}

/// A grid of cells.
pub(crate) struct Picture {
    columns: usize,
    cell_bytes: u64,
    size: u64,
    /// For each cell the bytes that the image itself has, and that others have.
    cells: Vec<(u64, u64)>,
}

impl Picture {
    /// An empty picture of a disk of `size` bytes in at most `columns` columns.
    pub(crate) fn new(size: u64, columns: u64) -> Self {
        let columns = columns.clamp(1, COLUMNS_MAX);
        // A power of two is easily read, and leaves at least half of the room used.
        let cell_bytes = size
            .div_ceil(columns * ROWS_MAX)
            .max(CELL_MIN)
            .next_power_of_two();
        let count = usize::try_from(size.div_ceil(cell_bytes)).expect("a few thousand at most");
        Self {
            columns: usize::try_from(columns).expect("128 at most"),
            cell_bytes,
            size,
            cells: vec![(0, 0); count],
        }
    }

    /// How many bytes a cell stands for.
    pub(crate) fn cell_bytes(&self) -> u64 {
        self.cell_bytes
    }

    /// Notes that a range has data of this holder.
    pub(crate) fn add(&mut self, start: u64, len: u64, holder: Holder) {
        let (mut at, end) = (start, start + len);
        while at < end {
            let cell = at / self.cell_bytes;
            let until = ((cell + 1) * self.cell_bytes).min(end);
            let cell = &mut self.cells[usize::try_from(cell).expect("inside the disk")];
            match holder {
                Holder::Top => cell.0 += until - at,
                Holder::Below => cell.1 += until - at,
            }
            at = until;
        }
    }

    /// The rows.
    pub(crate) fn rows(&self, style: Style) -> Vec<String> {
        let cells: Vec<Cell> = (0..self.cells.len()).map(|i| self.cell(i)).collect();
        let row = |cells: &[Cell]| match style {
            Style::Plain => cells.iter().map(|cell| cell.plain()).collect(),
            Style::Colour => coloured(cells),
        };
        cells.chunks(self.columns).map(row).collect()
    }

    /// The whole as an SVG document, with these lines of text below, each with the cell that it is about.
    pub(crate) fn svg(&self, title: &str, legend: &[(Cell, String)]) -> String {
        const SIDE: usize = 8;
        const LINE: usize = 18;
        let rows = self.cells.len().div_ceil(self.columns);
        let width = self.columns.max(100) * SIDE;
        let below = rows * SIDE + LINE;
        let height = below + (legend.len() + 1) * LINE;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<title>{}</title>\n",
            escaped(title)
        );
        let mut square = |x: usize, y: usize, cell: Cell| {
            let colour = cell.fill();
            svg += &format!(
                "<rect x=\"{x}\" y=\"{y}\" width=\"{SIDE}\" height=\"{SIDE}\" fill=\"{colour}\"/>\n"
            );
        };
        for index in 0..self.cells.len() {
            let (row, column) = (index / self.columns, index % self.columns);
            square(column * SIDE, row * SIDE, self.cell(index));
        }
        for (index, (cell, _)) in legend.iter().enumerate() {
            square(0, below + index * LINE, *cell);
        }
        for (index, (_, text)) in legend.iter().enumerate() {
            let y = below + index * LINE + SIDE;
            svg += &format!(
                "<text x=\"{}\" y=\"{y}\">{}</text>\n",
                2 * SIDE,
                escaped(text)
            );
        }
        svg + "</svg>\n"
    }

    fn cell(&self, index: usize) -> Cell {
        let (top, below) = self.cells[index];
        let start = index as u64 * self.cell_bytes;
        let half = self.cell_bytes.min(self.size - start).div_ceil(2);
        match (top, below) {
            (0, 0) => Cell::Zero,
            (0, _) if below >= half => Cell::Below,
            (0, _) => Cell::SomeBelow,
            _ if top >= half => Cell::Top,
            _ => Cell::SomeTop,
        }
    }
}

/// What a cell shows. What the image itself has shows however little it is: that is what one looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// At least half is the image's own.
    Top,
    /// Less than half is.
    SomeTop,
    /// Nothing is, and at least half is in images below.
    Below,
    /// Less than half is.
    SomeBelow,
    /// Nothing but zeros.
    Zero,
}

impl Cell {
    fn plain(self) -> char {
        match self {
            Self::Top => '#',
            Self::SomeTop => '+',
            Self::Below => '=',
            Self::SomeBelow => '-',
            Self::Zero => '.',
        }
    }

    /// Its letter, and the colour's number in the escape sequence.
    fn coloured(self) -> (char, u8) {
        match self {
            Self::Top => ('█', 32),
            Self::SomeTop => ('▒', 32),
            Self::Below => ('█', 34),
            Self::SomeBelow => ('▒', 34),
            Self::Zero => ('·', 90),
        }
    }

    /// Its colour in an SVG document.
    fn fill(self) -> &'static str {
        match self {
            Self::Top => "#1b7f3b",
            Self::SomeTop => "#8fce9f",
            Self::Below => "#2a5fa5",
            Self::SomeBelow => "#9dbde6",
            Self::Zero => "#e8e8e8",
        }
    }

    /// As it is drawn alone, for the legend.
    pub(crate) fn sample(self, style: Style) -> String {
        match style {
            Style::Plain => self.plain().to_string(),
            Style::Colour => coloured(&[self]),
        }
    }
}

/// Text as XML takes it.
fn escaped(text: &str) -> String {
    let letter = |letter: char| match letter {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        // Not allowed in XML at all.
        letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => {
            "\u{fffd}".to_owned()
        }
        letter => letter.to_string(),
    };
    text.chars().map(letter).collect()
}

fn coloured(cells: &[Cell]) -> String {
    let mut text = String::new();
    let mut current = None;
    for cell in cells {
        let (letter, colour) = cell.coloured();
        if current.replace(colour) != Some(colour) {
            text += &format!("\x1b[{colour}m");
        }
        text.push(letter);
    }
    text + "\x1b[0m"
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn each_cell_shows_who_holds_how_much_of_it() {
        let mut picture = Picture::new(10 * MIB, 4);
        assert_eq!(picture.cell_bytes(), 256 << 10);
        picture.add(0, MIB, Holder::Below);
        picture.add(512 << 10, 4096, Holder::Top);
        picture.add((768 << 10) - 4096, 8192, Holder::Below);
        picture.add(MIB, 128 << 10, Holder::Top);
        picture.add(10 * MIB - 512, 512, Holder::Below);
        let rows = picture.rows(Style::Plain);
        assert_eq!(rows.len(), 10);
        assert_eq!(rows[0], "==+=");
        assert_eq!(rows[1], "#...");
        assert_eq!(rows[9], "...-");
    }

    #[test]
    fn colours_change_only_where_the_holder_does() {
        let mut picture = Picture::new(4 * 4096, 80);
        picture.add(0, 4096, Holder::Top);
        picture.add(4096, 512, Holder::Top);
        picture.add(8192, 4096, Holder::Below);
        assert_eq!(
            picture.rows(Style::Colour),
            ["\x1b[32m█▒\x1b[34m█\x1b[90m·\x1b[0m"]
        );
    }

    #[test]
    fn a_document_has_a_square_for_each_cell_and_escapes_names() {
        let mut picture = Picture::new(4 * 4096, 80);
        picture.add(0, 4096, Holder::Top);
        picture.add(8192, 512, Holder::Below);
        let svg = picture.svg("a<b&c\n\u{ffff}", &[(Cell::Zero, "<zeros>".to_owned())]);
        assert_eq!(svg.matches("<rect ").count(), 5);
        for (cell, count) in [(Cell::Top, 1), (Cell::SomeBelow, 1), (Cell::Zero, 3)] {
            assert_eq!(svg.matches(cell.fill()).count(), count, "{svg}");
        }
        assert!(
            svg.contains("<title>a&lt;b&amp;c\u{fffd}\u{fffd}</title>"),
            "{svg}"
        );
        assert!(svg.contains(">&lt;zeros&gt;</text>") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn it_fits_for_every_size_of_disk_and_terminal() {
        for size in [512, 4096 * 3 + 512, 10 << 30, 64 << 40] {
            for columns in [0, 1, 7, 80, 1000] {
                let mut picture = Picture::new(size, columns);
                picture.add(0, size, Holder::Top);
                let rows = picture.rows(Style::Plain);
                assert!((1..=16).contains(&rows.len()), "{size} {columns}");
                let widest = rows.iter().map(String::len).max().unwrap() as u64;
                assert!(widest <= columns.clamp(1, 128));
                assert!(
                    rows.iter()
                        .all(|row| row.chars().all(|letter| letter == '#'))
                );
            }
        }
    }
}
