//! How a server wants to be shown who asks: `WWW-Authenticate` (RFC 9110 §11.6.1). Only Basic (RFC
//! 7617) is answered.

/// Challenges kept of one answer.
const KEPT: usize = 8;

/// The schemes of all challenges of one answer, in lower case, at most 8.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Challenges(Vec<String>);

impl Challenges {
    /// Whether Basic is among them.
    pub fn has_basic(&self) -> bool {
        self.0.iter().any(|scheme| scheme == "basic")
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The schemes, for a message.
    pub fn names(&self) -> String {
        self.0.join(", ")
    }

    /// Adds those of one field. `a="b, c"` is one parameter; a scheme is a word without a `=`
    /// behind it.
    pub fn add(&mut self, field: &str) {
        let mut in_quotes = false;
        let mut escaped = false;
        let split = |c: char| {
            let at_end = c == ',' && !in_quotes;
            match c {
                _ if escaped => escaped = false,
                '\\' if in_quotes => escaped = true,
                '"' => in_quotes = !in_quotes,
                _ => {}
            }
            at_end
        };
        for part in field.split(split) {
            let word = part.trim_start();
            let end = word.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+')));
            let (word, rest) = word.split_at(end.unwrap_or(word.len()));
            let is_scheme = !word.is_empty() && !rest.trim_start().starts_with('=');
            if is_scheme && word.len() <= 32 && self.0.len() < KEPT {
                self.0.push(word.to_ascii_lowercase());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[&str]) -> String {
        let mut challenges = Challenges::default();
        fields.iter().for_each(|field| challenges.add(field));
        challenges.names()
    }

    #[test]
    fn schemes_are_found_among_their_parameters() {
        assert_eq!(read(&["Basic realm=\"estrealm\""]), "basic");
        assert_eq!(
            read(&["Digest realm=\"a, Basic b\", nonce=\"x\", qop=auth, BASIC realm=\"c\""]),
            "digest, basic"
        );
        assert_eq!(read(&["Negotiate", "Basic"]), "negotiate, basic");
        assert_eq!(read(&["Digest realm=\"\\\", Basic\""]), "digest");
        assert_eq!(read(&["", ",,", "=", "\"", "Bearer"]), "bearer");
    }

    #[test]
    fn a_field_with_a_thousand_schemes_is_bounded() {
        assert_eq!(read(&[&"a, ".repeat(1_000)]).split(", ").count(), KEPT);
    }
}
