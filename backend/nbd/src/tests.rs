//! Every structure against literal bytes, and hostile clients.

mod arbitrary;
mod negotiating;
mod replying;
mod requesting;

use super::*;

/// An export of 1 MiB called `disk`, in blocks of 512 and preferably 4096 bytes, that offers everything.
fn export() -> Export {
    with(Features {
        trim: true,
        write_zeroes: true,
        fast_zero: true,
        read_only: false,
    })
}

fn with(features: Features) -> Export {
    let sizes = BlockSizes {
        minimum: 512,
        preferred: 4096,
    };
    Export::new("disk".into(), "a disk".into(), 1 << 20, sizes, features).unwrap()
}

const SIMPLE: Session = Session {
    structured: false,
    contexts: Contexts::EMPTY,
};

const STRUCTURED: Session = Session {
    structured: true,
    contexts: Contexts::EMPTY.with(Context::Allocation),
};

/// Bytes from hexadecimal digits; spaces are for people. A word in quotes stands for its characters.
fn bytes(text: &str) -> Vec<u8> {
    let mut found = Vec::new();
    for (place, piece) in text.split('\'').enumerate() {
        if place % 2 == 1 {
            found.extend_from_slice(piece.as_bytes());
            continue;
        }
        let digits: String = piece.split_whitespace().collect();
        assert!(digits.len().is_multiple_of(2), "{piece}");
        for at in (0..digits.len()).step_by(2) {
            found.push(u8::from_str_radix(&digits[at..at + 2], 16).unwrap());
        }
    }
    found
}

#[test]
fn only_what_the_protocol_allows_can_be_exported() {
    let make = |name: &str, size, minimum, preferred| {
        let sizes = BlockSizes { minimum, preferred };
        Export::new(name.into(), String::new(), size, sizes, Features::default())
    };
    assert!(make("", 0, 1, 512).is_ok());
    assert!(make(&"x".repeat(4096), 1 << 16, 1 << 16, 32 << 20).is_ok());
    assert!(matches!(
        make(&"x".repeat(4097), 0, 1, 512),
        Err(ExportError::Name(_))
    ));
    assert!(matches!(make("a\0b", 0, 1, 512), Err(ExportError::Name(_))));
    for (minimum, preferred) in [
        (0, 512),
        (3, 512),
        (1, 256),
        (4096, 512),
        (1 << 17, 1 << 17),
        (512, 768),
        (512, 64 << 20),
    ] {
        let result = make("", 0, minimum, preferred);
        assert!(
            matches!(result, Err(ExportError::Sizes(_))),
            "{minimum} {preferred}"
        );
    }
    assert_eq!(
        make("", 1000, 512, 4096),
        Err(ExportError::Ragged {
            size: 1000,
            minimum: 512
        })
    );
    let long = "x".repeat(4097);
    let sizes = BlockSizes {
        minimum: 512,
        preferred: 512,
    };
    assert!(matches!(
        Export::new(String::new(), long, 0, sizes, Features::default()),
        Err(ExportError::Description(_))
    ));
}

#[test]
fn errno_values_become_the_codes_of_the_protocol() {
    for (errno, code) in [
        (1, 1),
        (5, 5),
        (12, 12),
        (13, 1),
        (22, 22),
        (27, 28),
        (28, 28),
        (30, 1),
        (95, 5),
        (108, 108),
        (122, 28),
        (0, 5),
        (-1, 5),
        (i32::MAX, 5),
    ] {
        assert_eq!(ErrorCode::from_errno(errno).code(), code, "{errno}");
    }
}
