//! Tables: aligned columns under a heading.

use std::io::{self, Write};

use anstyle::Style;

const HEADING: Style = Style::new().bold();

/// The alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    /// For texts.
    Left,
    /// For numbers.
    Right,
}

/// Writes a table. Cells are written unchanged: untrusted text must pass [`sanitize`](crate::sanitize::sanitize) before.
pub(super) fn write<const N: usize>(
    columns: [(&str, Align); N],
    rows: &[[String; N]],
    output: &mut dyn Write,
) -> io::Result<()> {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let texts = rows.iter().map(|row| row[column].as_str()).chain([columns[column].0]);
        texts.map(|text| text.chars().count()).max().unwrap_or_default()
    });
    let line = |cells: [&str; N]| -> String {
        let cells = cells.into_iter().zip(columns).zip(widths);
        let cells: Vec<String> = cells
            .map(|((cell, (_, align)), width)| match align {
                Align::Left => format!("{cell:width$}"),
                Align::Right => format!("{cell:>width$}"),
            })
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    writeln!(output, "{HEADING}{}{HEADING:#}", line(columns.map(|(name, _)| name)))?;
    for row in rows {
        writeln!(output, "{}", line(row.each_ref().map(String::as_str)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fit_their_widest_cell() {
        let mut output = anstream::StripStream::new(Vec::new());
        let rows = [
            ["1".to_owned(), "äöü".to_owned(), String::new()],
            ["23".to_owned(), "a".to_owned(), "b".to_owned()],
        ];
        write([("N", Align::Right), ("NAME", Align::Left), ("REST", Align::Left)], &rows, &mut output)
            .unwrap();
        assert_eq!(String::from_utf8(output.into_inner()).unwrap(), " N  NAME  REST\n 1  äöü\n23  a     b\n");
    }
}
