//! Whether a text is well-formed XML, by what we write of it: elements, attributes and text. What else XML has is refused.

/// Says what is wrong, if anything is.
pub(crate) fn check(text: &str) -> Result<(), String> {
    let mut open: Vec<&str> = Vec::new();
    let mut roots = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (before, after) = rest.split_once('<').unwrap_or((rest, ""));
        check_text(before)?;
        if open.is_empty() && !before.trim().is_empty() {
            return Err(format!("text outside of the root: {before:?}"));
        }
        if before.len() == rest.len() {
            break;
        }
        let (tag, after) = after.split_once('>').ok_or("a tag that does not end")?;
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name) {
                return Err(format!("</{name}> ends what is not open"));
            }
            continue;
        }
        let (tag, is_empty) = match tag.strip_suffix('/') {
            Some(tag) => (tag, true),
            None => (tag, false),
        };
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        check_name(name)?;
        check_attributes(attributes)?;
        roots += usize::from(open.is_empty());
        if !is_empty {
            open.push(name);
        }
    }
    match (open.as_slice(), roots) {
        ([], 1) => Ok(()),
        ([], _) => Err(format!("{roots} roots")),
        _ => Err(format!("not closed: {open:?}")),
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let is_letter = |letter: char| letter.is_ascii_alphabetic() || letter == '-';
    match !name.is_empty() && name.chars().all(is_letter) {
        true => Ok(()),
        false => Err(format!("no name: {name:?}")),
    }
}

fn check_attributes(mut rest: &str) -> Result<(), String> {
    let mut seen = Vec::new();
    while !rest.is_empty() {
        let no_attribute = || format!("no attribute: {rest:?}");
        let (name, after) = rest.split_once("=\"").ok_or_else(no_attribute)?;
        let (value, after) = after.split_once('"').ok_or_else(no_attribute)?;
        check_name(name)?;
        check_text(value)?;
        if seen.contains(&name) {
            return Err(format!("{name} twice"));
        }
        seen.push(name);
        rest = match after.strip_prefix(' ') {
            Some(after) => after,
            None if after.is_empty() => after,
            None => return Err(format!("no blank before {after:?}")),
        };
    }
    Ok(())
}

/// Characters that XML allows, and no `&` but in the names of some.
fn check_text(text: &str) -> Result<(), String> {
    let is_allowed = |letter: char| match letter {
        '\t' | '\n' | '\r' => true,
        '\u{fffe}' | '\u{ffff}' => false,
        letter => letter >= ' ',
    };
    if !text.chars().all(is_allowed) || text.contains('<') || text.contains("]]>") {
        return Err(format!("characters that XML has not: {text:?}"));
    }
    for after in text.split('&').skip(1) {
        let is_known = ["lt;", "gt;", "amp;", "quot;", "apos;"].map(|name| after.starts_with(name));
        if !is_known.contains(&true) {
            return Err(format!("a bare & before {after:?}"));
        }
    }
    Ok(())
}

#[test]
fn what_is_not_well_formed_is_noticed() {
    assert_eq!(check("<a b=\"c\" d=\"&lt;\">\n<e/>&amp;</a>\n"), Ok(()));
    for text in [
        "",
        "a",
        "<a>",
        "<a></b>",
        "</a>",
        "<a/><b/>",
        "<a/>b",
        "<a>&</a>",
        "<a>&b;</a>",
        "<a>\u{1}</a>",
        "<a>\u{ffff}</a>",
        "<a b=c/>",
        "<a b=\"c\"d=\"e\"/>",
        "<a b=\"c\" b=\"c\"/>",
        "<a b=\"<\"/>",
        "<a",
    ] {
        assert!(check(text).is_err(), "{text:?}");
    }
}
