//! Rust source as a flat list of tokens: what the rules look at, so that comments and strings never count.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// One token with its place.
#[derive(Debug, PartialEq, Eq)]
pub struct Token {
    /// An identifier, a literal, one punctuation mark or one bracket.
    pub text: String,
    /// Line in the file, from 1.
    pub line: usize,
    /// Inside an item that only tests compile.
    pub test: bool,
}

/// Words that begin an item; seen after `#[cfg(test)]`, a comma does not end what the attribute covers.
const ITEM_WORDS: [&str; 10] =
    ["fn", "mod", "impl", "struct", "enum", "use", "trait", "type", "const", "static"];

/// Splits a source file into tokens.
///
/// # Errors
/// What the lexer says when the text is not Rust.
pub fn scan(text: &str) -> Result<Vec<Token>, String> {
    let stream: TokenStream = text.parse().map_err(|error| format!("does not read as Rust: {error}"))?;
    let mut tokens = Vec::new();
    flatten(stream, false, &mut tokens);
    Ok(tokens)
}

fn flatten(stream: TokenStream, test: bool, out: &mut Vec<Token>) {
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    // What a test attribute covers runs to the end of its item.
    let (mut file_is_test, mut covered, mut in_item) = (test, false, false);
    for (i, tree) in trees.iter().enumerate() {
        if let TokenTree::Group(group) = tree
            && group.delimiter() == Delimiter::Bracket
            && marks_test(&group.stream())
        {
            match trees.get(i.wrapping_sub(1)) {
                Some(TokenTree::Punct(mark)) if mark.as_char() == '#' => (covered, in_item) = (true, false),
                Some(TokenTree::Punct(mark)) if mark.as_char() == '!' => file_is_test = true,
                _ => {}
            }
        }
        push(tree, file_is_test || covered, out);
        let ends = match tree {
            TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
            TokenTree::Punct(mark) => mark.as_char() == ';' || (mark.as_char() == ',' && !in_item),
            TokenTree::Ident(word) => {
                in_item |= ITEM_WORDS.contains(&word.to_string().as_str());
                false
            }
            TokenTree::Literal(_) => false,
        };
        covered &= !ends;
    }
}

fn push(tree: &TokenTree, test: bool, out: &mut Vec<Token>) {
    let line = tree.span().start().line;
    let TokenTree::Group(group) = tree else {
        out.push(Token { text: tree.to_string(), line, test });
        return;
    };
    let (open, close) = match group.delimiter() {
        Delimiter::Brace => ("{", "}"),
        Delimiter::Bracket => ("[", "]"),
        Delimiter::Parenthesis => ("(", ")"),
        Delimiter::None => ("", ""),
    };
    out.push(Token { text: open.to_owned(), line, test });
    flatten(group.stream(), test, out);
    out.push(Token { text: close.to_owned(), line: group.span_close().start().line, test });
}

/// Whether the inside of `#[...]` is `test`, `cfg(test)` or a path that ends in `test` such as `tokio::test`.
fn marks_test(attribute: &TokenStream) -> bool {
    let words: Vec<String> = attribute.clone().into_iter().map(|tree| tree.to_string()).collect();
    let path: Vec<&str> =
        words.iter().map(String::as_str).take_while(|word| !word.starts_with('(')).collect();
    match path.as_slice() {
        ["cfg"] => words.get(1).is_some_and(|condition| {
            let condition: String = condition.chars().filter(|c| !c.is_whitespace()).collect();
            condition == "(test)" || condition.starts_with("(all(test,")
        }),
        [.., "test"] => true,
        _ => false,
    }
}

/// Lines where these words stand one after the other; `"_"` stands for any one token.
#[must_use]
pub fn lines_with(tokens: &[&Token], words: &[&str]) -> Vec<usize> {
    let same = |(token, word): (&&Token, &&str)| *word == "_" || token.text == *word;
    tokens.windows(words.len()).filter(|w| w.iter().zip(words).all(same)).map(|w| w[0].line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn untested(text: &str) -> String {
        let tokens = scan(text).unwrap();
        tokens.iter().filter(|t| !t.test).map(|t| t.text.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_only_tests_compile_is_marked() {
        assert_eq!(
            untested("fn a() {} #[cfg(test)] mod tests { fn b<X, Y>() {} } fn c() {}"),
            "fn a ( ) { } # fn c ( ) { }"
        );
        assert_eq!(untested("#[test] fn b<X, Y>() { x } fn c() {}"), "# fn c ( ) { }");
        assert_eq!(untested("#[tokio::test(flavor = \"x\")] async fn b() { x } use d;"), "# use d ;");
        assert_eq!(untested("struct S { #[cfg(test)] a: u8, b: u8 }"), "struct S { # b : u8 }");
        assert_eq!(untested("#[cfg(not(test))] fn b() {}"), "# [ cfg ( not ( test ) ) ] fn b ( ) { }");
        assert_eq!(untested("#![cfg(test)] fn b() {}"), "# !");
    }

    #[test]
    fn comments_and_strings_are_not_words() {
        let tokens = scan("// tokio::spawn\nfn a() { \"tokio::spawn\"; tokio::spawn(x) }").unwrap();
        let all: Vec<&Token> = tokens.iter().collect();
        assert_eq!(lines_with(&all, &["tokio", ":", ":", "spawn"]), [2]);
    }

    #[test]
    fn what_is_not_rust_is_an_error() {
        assert!(scan("fn a( {").is_err());
    }
}
