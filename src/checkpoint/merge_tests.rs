use proptest::prelude::*;

use super::*;

fn merged(base: &str, ours: &str, theirs: &str) -> Option<String> {
    let text = merge_lines(base.as_bytes(), ours.as_bytes(), theirs.as_bytes())?;
    Some(String::from_utf8(text).expect("text in, text out"))
}

#[test]
fn changes_with_a_line_between_them_go_together() {
    let base = "1\n2\n3\n4\n5\n";
    assert_eq!(
        merged(base, "one\n2\n3\n4\n5\n", "1\n2\n3\n4\nfive\n").as_deref(),
        Some("one\n2\n3\n4\nfive\n")
    );
    assert_eq!(
        merged(base, "1\n2\n4\n5\n", "0\n1\n2\n3\n4\n5").as_deref(),
        Some("0\n1\n2\n4\n5")
    );
    assert_eq!(merged("", "x\n", "").as_deref(), Some("x\n"));
    assert_eq!(merged("x\n", "", "x\n").as_deref(), Some(""));
}

#[test]
fn changes_that_touch_are_a_conflict_unless_they_are_the_same() {
    let base = "1\n2\n3\n4\n";
    assert_eq!(merged(base, "1\nx\n3\n4\n", "1\ny\n3\n4\n"), None);
    assert_eq!(merged(base, "1\nx\n3\n4\n", "1\n2\ny\n4\n"), None);
    assert_eq!(merged(base, "1\n2\n3\n4\nx\n", "1\n2\n3\n4\ny\n"), None);
    assert_eq!(merged(base, "1\n2\n3\n4\nx", "1\n2\n3\n4\nx\n"), None);
    assert_eq!(
        merged(base, "1\n2\nx\n3\n4\n", "1\n2\nx\n3\n4\n").as_deref(),
        Some("1\n2\nx\n3\n4\n")
    );
    assert_eq!(merged("", "x\n", "y\n"), None);
}

fn lines() -> impl Strategy<Value = Vec<&'static str>> {
    let word = proptest::sample::select(vec!["a\n", "b\n", "c\n", "\n", "long line\n"]);
    proptest::collection::vec(word, 0..12)
}

proptest! {
    #[test]
    fn merging_is_fair_and_loses_nothing(base in lines(), ours in lines(), theirs in lines(), ends in any::<[bool; 3]>()) {
        let text = |lines: &[&str], end: bool| {
            let mut text = lines.concat();
            if end {
                text.push_str("end");
            }
            text
        };
        let (base, ours, theirs) = (text(&base, ends[0]), text(&ours, ends[1]), text(&theirs, ends[2]));
        prop_assert_eq!(merged(&base, &base, &theirs), Some(theirs.clone()));
        prop_assert_eq!(merged(&base, &ours, &base), Some(ours.clone()));
        prop_assert_eq!(merged(&base, &ours, &ours), Some(ours.clone()));
        prop_assert_eq!(merged(&base, &ours, &theirs), merged(&base, &theirs, &ours));
    }
}
