//! How MQTT topic filters are to each other (MQTT 5.0 §4.7).

/// Whether every topic that the MQTT filter `filter` matches is matched by `other`, too.
pub fn covers(other: &str, filter: &str) -> bool {
    let mut levels = filter.split('/');
    for known in other.split('/') {
        match (known, levels.next()) {
            // It is the levels before it alone, too (MQTT 5.0 §4.7.1.2).
            ("#", _) => return true,
            // `a/+/#` does not match `a`, which `a/#` does.
            (_, None | Some("#")) => return false,
            ("+", Some(_)) => {}
            (known, Some(level)) if known == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_covers_another_if_it_matches_all_that_it_matches() {
        assert!(covers("a/+/down/#", "a/+/down/run/+") && covers("a/+/down/#", "a/gateway/down/#"));
        assert!(covers("a/#", "a/#") && covers("#", "a/+") && covers("a/+", "a/b"));
        assert!(!covers("a/+", "a/#") && !covers("a/b", "a/+") && !covers("a/+/c", "a/b/#"));
        assert!(!covers("a/+/down/run/+", "a/+/down/#"));
        // A topic of `a/#` is `a`, which has no level in place of the `+`.
        assert!(covers("a/#", "a/+/#") && !covers("a/+/#", "a/#") && !covers("a/+", "a"));
    }
}
