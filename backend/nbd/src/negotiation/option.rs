//! The data of options, taken apart.

use crate::read::Fields;
use crate::wire::info;

/// The data of an option does not have its form.
#[derive(Debug)]
pub(super) struct Malformed;

/// The data of INFO and GO.
pub(super) struct ExportChoice<'a> {
    pub(super) name: &'a [u8],
    pub(super) requests: InfoRequests<'a>,
}

impl<'a> ExportChoice<'a> {
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(data);
        let name = fields.string().ok_or(Malformed)?;
        let count = fields.u16().ok_or(Malformed)?;
        if fields.0.len() != 2 * usize::from(count) {
            return Err(Malformed);
        }
        let requests = InfoRequests(fields.0);
        Ok(Self { name, requests })
    }
}

/// What a client wants to be told beside size and flags, 16 bits each.
#[derive(Clone, Copy)]
pub(super) struct InfoRequests<'a>(&'a [u8]);

impl InfoRequests<'_> {
    /// Those that there is an answer to, each once however often it was asked for.
    pub(super) fn distinct(&self) -> impl Iterator<Item = u16> {
        [info::BLOCK_SIZE, info::NAME, info::DESCRIPTION]
            .into_iter()
            .filter(|wanted| self.0.chunks_exact(2).any(|r| r == wanted.to_be_bytes()))
    }
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub(super) struct MetaQuery<'a> {
    pub(super) name: &'a [u8],
    /// Strings behind their lengths; the form was checked.
    queries: &'a [u8],
}

impl<'a> MetaQuery<'a> {
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(data);
        let name = fields.string().ok_or(Malformed)?;
        let count = fields.u32().ok_or(Malformed)?;
        let queries = fields.0;
        // Each takes four bytes at least, so the data bounds this, whatever the count says.
        for _ in 0..count {
            fields.string().ok_or(Malformed)?;
        }
        if fields.is_empty() {
            Ok(Self { name, queries })
        } else {
            Err(Malformed)
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queries.is_empty()
    }

    pub(super) fn queries(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut fields = Fields(self.queries);
        std::iter::from_fn(move || fields.string())
    }
}
