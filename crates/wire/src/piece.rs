//! Pieces of content and the subjects they are stored under.

use domain::Digest;
use domain::content::retention::Piece;

use crate::subject::{Subject, content_chunk, content_index, content_manifest, content_patch};

/// The subject of a piece.
#[must_use]
pub fn subject(piece: &Piece) -> Subject {
    match piece {
        Piece::Manifest(manifest) => content_manifest(manifest),
        Piece::Index(manifest) => content_index(manifest),
        Piece::Chunk(chunk) => content_chunk(chunk),
        Piece::Part { from, to, number } => content_patch(from.as_ref(), to, *number),
    }
}

/// The piece that is stored under a subject; `None` if it is not one of content.
#[must_use]
pub fn parse(subject: &str) -> Option<Piece> {
    let (noun, name) = subject.strip_prefix("content.")?.split_once('.')?;
    match noun {
        "manifest" => digest(name).map(Piece::Manifest),
        "index" => digest(name).map(Piece::Index),
        "chunk" => digest(name).map(Piece::Chunk),
        "patch" => {
            let (from, rest) = name.split_once('.')?;
            let (to, number) = rest.split_once('.')?;
            let from = if from == "none" { None } else { Some(digest(from)?) };
            let plain = number == "0" || !number.starts_with(['0', '+']);
            let number = number.parse().ok().filter(|_| plain)?;
            Some(Piece::Part { from, to: digest(to)?, number })
        }
        _ => None,
    }
}

/// The pattern of all parts of the delta between two manifests; without `from` of the whole content.
#[must_use]
pub fn parts(from: Option<&Digest>, to: &Digest) -> String {
    match from {
        Some(from) => format!("content.patch.{from}.{to}.*"),
        None => format!("content.patch.none.{to}.*"),
    }
}

/// 64 small hexadecimal digits: the one way in which a digest is written in a subject.
fn digest(text: &str) -> Option<Digest> {
    let small = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
    if text.len() != 64 || !text.as_bytes().iter().all(small) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(Digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_and_subjects_are_one_to_one() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let pieces = [
            Piece::Manifest(a),
            Piece::Index(a),
            Piece::Chunk(b),
            Piece::Part { from: None, to: a, number: 0 },
            Piece::Part { from: Some(b), to: a, number: 4_294_967_295 },
        ];
        for piece in pieces {
            assert_eq!(parse(subject(&piece).as_str()), Some(piece));
        }
        for wrong in [
            format!("content.chunk.{}", a.to_string().to_uppercase()),
            format!("content.chunk.{a}0"),
            format!("content.chunk.{a}.0"),
            format!("content.patch.{a}.{b}"),
            format!("content.patch.{a}.{b}.01"),
            format!("content.patch.none.{b}.+1"),
            format!("content.patch.none.{b}.4294967296"),
            format!("content.patch.none.none.{b}.1"),
            format!("store.chunk.{a}"),
            "content.chunk".to_owned(),
            "content.other.x".to_owned(),
        ] {
            assert_eq!(parse(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_pattern_covers_all_parts_of_one_delta() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        for from in [None, Some(&a)] {
            let pattern = parts(from, &b);
            let prefix = pattern.strip_suffix('*').unwrap();
            let part = content_patch(from, &b, 17);
            assert_eq!(part.as_str().strip_prefix(prefix), Some("17"));
        }
    }
}
