//! Writes the CoRE Link Format, the payload of `/.well-known/core` (RFC 6690 §2).

use std::fmt::Write;

/// Appends links to a text.
///
/// ```
/// use tombolo::proto::coap::link_format::LinkFormat;
/// let mut text = String::new();
/// LinkFormat::new(&mut text).link(["t", "+"]).attribute("title", "any reading").number("ct", 0);
/// assert_eq!(text, r#"</t/%2B>;title="any reading";ct=0"#);
/// ```
#[derive(Debug)]
pub struct LinkFormat<'t> {
    text: &'t mut String,
    first: bool,
}

impl<'t> LinkFormat<'t> {
    /// Begins a list of links at the end of `text`.
    pub fn new(text: &'t mut String) -> LinkFormat<'t> {
        LinkFormat { text, first: true }
    }

    /// Begins a link to the path of these segments; characters that are not allowed in a URI path
    /// are percent-encoded (RFC 3986 §3.3).
    pub fn link<'s>(&mut self, segments: impl IntoIterator<Item = &'s str>) -> &mut Self {
        self.text.push_str(if self.first { "<" } else { ",<" });
        self.first = false;
        let start = self.text.len();
        for segment in segments {
            self.text.push('/');
            for byte in segment.bytes() {
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    self.text.push(char::from(byte));
                } else {
                    // Writing to a String cannot fail.
                    let _ = write!(self.text, "%{byte:02X}");
                }
            }
        }
        if self.text.len() == start {
            self.text.push('/');
        }
        self.text.push('>');
        self
    }

    /// Adds an attribute with a quoted value; `"` and `\` are escaped. `name` is a token of RFC
    /// 6690, such as `rt`.
    pub fn attribute(&mut self, name: &str, value: &str) -> &mut Self {
        let _ = write!(self.text, ";{name}=\"");
        for character in value.chars() {
            if matches!(character, '"' | '\\') {
                self.text.push('\\');
            }
            self.text.push(character);
        }
        self.text.push('"');
        self
    }

    /// Adds an attribute with a number, such as `ct` or `sz`.
    pub fn number(&mut self, name: &str, value: u32) -> &mut Self {
        let _ = write!(self.text, ";{name}={value}");
        self
    }

    /// Adds an attribute without a value, such as `obs`.
    pub fn flag(&mut self, name: &str) -> &mut Self {
        let _ = write!(self.text, ";{name}");
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_separated_escaped_and_encoded() {
        let mut text = String::new();
        let mut links = LinkFormat::new(&mut text);
        links.link([]).flag("obs");
        links.link(["tür", "a b,c"]).attribute("title", "say \"hi\" \\ é").number("ct", 40);
        assert_eq!(text, r#"</>;obs,</t%C3%BCr/a%20b%2Cc>;title="say \"hi\" \\ é";ct=40"#);
    }
}
