//! Questions on the terminal.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::MAX_LINE;

/// Bytes that a terminal sends in place of a signal.
const CONTROL_C: u8 = 3;
const CONTROL_D: u8 = 4;
const BACKSPACE: [u8; 2] = [8, 127];

/// Whether questions can be asked: standard input and standard error are a terminal.
pub(super) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for a line. An empty answer is the default.
///
/// # Errors
/// Also at the end of the input.
pub(super) fn line(question: &str, default: &str) -> io::Result<String> {
    let shown = if default.is_empty() { String::new() } else { format!(" [{default}]") };
    let mut stderr = anstream::stderr().lock();
    write!(stderr, "{question}{shown}: ")?;
    stderr.flush()?;
    let mut answer = String::new();
    if io::stdin().lock().take(MAX_LINE).read_line(&mut answer)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let answer = answer.trim();
    Ok(if answer.is_empty() { default } else { answer }.to_owned())
}

/// Asks for a line that the terminal does not show.
///
/// # Errors
/// [`io::ErrorKind::Interrupted`] for Ctrl-C.
pub(super) fn secret(question: &str) -> io::Result<Zeroizing<String>> {
    let mut stderr = anstream::stderr().lock();
    write!(stderr, "{question}: ")?;
    stderr.flush()?;
    let typed = {
        let _hidden = Hidden::new()?;
        typed(&mut io::stdin().lock())
    };
    writeln!(stderr)?;
    typed
}

/// A terminal that shows no input. It sends Ctrl-C as a byte: a signal would end the process and leave it so.
struct Hidden(Termios);

impl Hidden {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

/// Reads a line from a terminal that does not edit lines.
fn typed(input: &mut impl Read) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_LINE as usize));
    let mut byte = Zeroizing::new([0]);
    while text.len() < MAX_LINE as usize && input.read(&mut *byte)? > 0 {
        match byte[0] {
            b'\n' | b'\r' | CONTROL_D => break,
            CONTROL_C => return Err(io::ErrorKind::Interrupted.into()),
            byte if BACKSPACE.contains(&byte) => drop(text.pop()),
            byte => text.push(byte),
        }
    }
    let text = std::str::from_utf8(&text).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_ends_with_the_line_and_can_be_edited() {
        for (input, expected) in [
            ("17|abc\nrest", Some("17|abc")),
            ("17|abx\x7fc\r", Some("17|abc")),
            ("\x7f\x08a\x04b", Some("a")),
            ("", Some("")),
            ("17|a\x03", None),
        ] {
            let found = typed(&mut input.as_bytes());
            assert_eq!(found.as_ref().ok().map(|text| text.as_str()), expected, "{input:?}");
        }
        assert!(typed(&mut &b"\xff\n"[..]).is_err());
    }
}
