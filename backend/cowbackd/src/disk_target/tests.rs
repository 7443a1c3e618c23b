use dscow::engine::OnNoSpace;
use dscow::units::BlockSize;
use std::os::unix::ffi::OsStrExt;

use super::*;

fn target(image: &str, base: Option<&str>) -> Target {
    Target {
        image: image.into(),
        base: base.map(Into::into),
        options: TargetOptions::default(),
    }
}

#[test]
fn both_forms_are_understood() {
    for (text, expected) in [
        ("/images/a.cow", target("/images/a.cow", None)),
        ("/images/a:b.cow", target("/images/a:b.cow", None)),
        (
            "dscow:/images/a.cow:/images/base.img",
            target("/images/a.cow", Some("/images/base.img")),
        ),
        (
            "dscow:/images/a:b c.cow:/dev/vg/base",
            target("/images/a:b c.cow", Some("/dev/vg/base")),
        ),
    ] {
        assert_eq!(Target::parse(text), Ok(expected), "{text}");
    }
}

#[test]
fn options_are_understood() {
    let parsed = Target::parse(
        "dscow,size=1.5G,block-size=64K,sector-size=4096,on-enospc=report,detect-zeroes=on,cache=host,read-only:/images/a.cow",
    );
    let expected = Target {
        options: TargetOptions {
            size: Some(3 << 29),
            block_size: BlockSize::from_bytes(64 << 10),
            sector_size: Some(4096),
            on_no_space: Some(OnNoSpace::Report),
            detect_zeroes: true,
            cache: Cache::Host,
            read_only: true,
        },
        ..target("/images/a.cow", None)
    };
    assert_eq!(parsed, Ok(expected));
    let with_base = Target::parse("dscow,detect-zeroes=off,read-only=off:/a.cow:/b.img");
    assert_eq!(with_base, Ok(target("/a.cow", Some("/b.img"))));
}

/// What the manual page and the guide for operators give as examples.
#[test]
fn documented_targets_are_understood() {
    let page = include_str!("../../../../packaging/man/cowback-disk.5");
    let guide = include_str!("../../../../docs/operations.md");
    let of_page = page
        .lines()
        .filter_map(|line| line.strip_prefix(".Dl target="));
    let (_, table) = guide.split_once("| target | disk |\n|---|---|\n").unwrap();
    let rows = table.lines().map_while(|line| line.strip_prefix("| `"));
    let of_guide = rows.map(|row| row.split_once('`').unwrap().0);
    let targets: Vec<_> = of_page.chain(of_guide).collect();
    for target in &targets {
        Target::parse(target).unwrap();
    }
    assert_eq!(targets.len(), 8, "{targets:?}");
}

/// Whatever a path holds, it can be written.
#[test]
fn odd_paths_survive() {
    // As they are, without anything else in the target.
    for path in [
        "/a b",
        "/a,size=1G:x",
        "/a%41",
        "/a:/b",
        "/a\n",
        "/ä",
        "/dscow:/b:/c",
    ] {
        assert_eq!(Target::parse(path), Ok(target(path, None)), "{path:?}");
    }
    // With escapes where they are needed.
    for (text, image, base) in [
        ("dscow:/a%3A/b:/c", "/a:/b", "/c"),
        ("dscow:/a:/c%3a/d", "/a", "/c:/d"),
        ("dscow:/a%2541:/c", "/a%41", "/c"),
        ("dscow:/100%:/50% off", "/100%", "/50% off"),
        ("dscow:/a,b=c:/d,size=1G", "/a,b=c", "/d,size=1G"),
        ("dscow:/a%zz:/%4", "/a%zz", "/%4"),
    ] {
        let expected = target(image, Some(base));
        assert_eq!(Target::parse(text), Ok(expected), "{text}");
    }
    let not_text = Target::parse("dscow:/a%ff:/b").unwrap();
    assert_eq!(not_text.image.as_os_str().as_bytes(), b"/a\xff");
    // Every byte, in both places.
    for byte in 1..=u8::MAX {
        let text = format!("dscow:/a%{byte:02x}:/b%{byte:02X}");
        let parsed = Target::parse(&text).unwrap();
        assert_eq!(parsed.image.as_os_str().as_bytes(), [b'/', b'a', byte]);
        let base = parsed.base.unwrap();
        assert_eq!(base.as_os_str().as_bytes(), [b'/', b'b', byte]);
    }
}

#[test]
fn anything_else_is_refused_with_the_reason() {
    for (text, reason) in [
        ("", "the disk has no target"),
        ("a.cow", "is neither an absolute path"),
        ("raw:/images/a.img", "is neither an absolute path"),
        ("dscow2:/images/a.img", "is neither an absolute path"),
        ("dscow:/images/a.cow", "with two absolute paths"),
        ("dscow:a.cow:/images/base.img", "with two absolute paths"),
        ("dscow:/images/a.cow:base.img", "with two absolute paths"),
        (
            "dscow,size=1G:/images/a.cow:base.img",
            "with two absolute paths",
        ),
        ("dscow,size=1G:", "with two absolute paths"),
        ("dscow:/a:/b:/c", "more than one place; write %3A"),
        (
            "dscow,sise=1G:/a",
            "there is no option \"sise\"; there are size,",
        ),
        ("dscow,:/a:/b", "there is no option \"\""),
        ("dscow,size=1G,size=2G:/a", "size is given more than once"),
        ("dscow,size=lots:/a", "size=\"lots\": "),
        (
            "dscow,block-size=5K:/a:/b",
            "a power of two between 4K and 2M",
        ),
        ("dscow,sector-size=1024:/a:/b", "must be 512 or 4096"),
        ("dscow,on-enospc=panic:/a:/b", "must be pause or report"),
        ("dscow,detect-zeroes=maybe:/a:/b", "must be on or off"),
        ("dscow,detect-zeroes:/a:/b", "must be on or off"),
        ("dscow,cache=none:/a:/b", "must be direct or host"),
        ("dscow,read-only=perhaps:/a:/b", "must be on or off"),
    ] {
        let message = Target::parse(text).unwrap_err().to_string();
        assert!(message.contains(reason), "{text}: {message}");
    }
}
