//! Reads what a NATS server sends to a client, for the stored messages in it.

/// A stored message as it travelled: an answer of Direct Get.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Piece {
    /// The subject it is stored under.
    pub subject: String,
    /// Its bytes, without headers.
    pub bytes: u64,
}

/// Follows the bytes of one connection.
#[derive(Debug, Default)]
pub(crate) struct Tap {
    /// Bytes that were not understood yet.
    rest: Vec<u8>,
    pieces: Vec<Piece>,
}

impl Tap {
    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let mut done = 0;
        while let Some(length) = self.message(done) {
            done += length;
        }
        self.rest.drain(..done);
    }

    /// The length of the whole message that begins at `from`, if all of it is there.
    fn message(&mut self, from: usize) -> Option<usize> {
        let bytes = &self.rest[from..];
        let line_end = bytes.windows(2).position(|two| two == b"\r\n")?;
        let line = String::from_utf8_lossy(&bytes[..line_end]).into_owned();
        let words: Vec<&str> = line.split(' ').collect();
        let number = |from_end: usize| -> usize {
            words.len().checked_sub(from_end).and_then(|at| words[at].parse().ok()).unwrap_or(0)
        };
        let (headers, total) = match words[0] {
            "HMSG" => (number(2).min(number(1)), number(1)),
            "MSG" => (0, number(1)),
            _ => return Some(line_end + 2),
        };
        let length = line_end + 2 + total + 2;
        let body = bytes.get(line_end + 2..length)?;
        if let Some(subject) = stored_under(&body[..headers]) {
            self.pieces.push(Piece { subject, bytes: (total - headers) as u64 });
        }
        Some(length)
    }
}

/// The header of Direct Get that names the subject.
fn stored_under(headers: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(headers).into_owned();
    text.lines().find_map(|line| line.strip_prefix("Nats-Subject: ").map(|name| name.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_messages_are_found_however_the_bytes_arrive() {
        let header = "NATS/1.0\r\nNats-Stream: CONTENT\r\nNats-Subject: content.chunk.ab\r\n\r\n";
        let stream = format!(
            "INFO {{}}\r\nPING\r\nMSG a 1 3\r\nx\r\n\r\nHMSG _INBOX.1 2 {} {}\r\n{header}HMSG\r\r\nPONG\r\nHMSG _INBOX.1 2 {0} {0}\r\n{header}\r\n",
            header.len(),
            header.len() + 5
        );
        let expected = [5, 0].map(|bytes| Piece { subject: "content.chunk.ab".to_owned(), bytes });
        for step in [1, 7, stream.len()] {
            let mut tap = Tap::default();
            stream.as_bytes().chunks(step).for_each(|bytes| tap.feed(bytes));
            assert_eq!(tap.pieces(), expected, "{step} at a time");
            assert!(tap.rest.is_empty());
        }
    }
}
