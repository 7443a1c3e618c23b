//! Replies to options, as bytes.

use crate::context::Context;
use crate::export::{Export, PAYLOAD_BYTES_MAX};
use crate::wire::{OPTION_REPLY_MAGIC, info, option_reply};

/// Appends the replies to one option.
pub(super) struct Answers<'a> {
    pub(super) option: u32,
    pub(super) replies: &'a mut Vec<u8>,
}

impl Answers<'_> {
    pub(super) fn acknowledge(&mut self) {
        self.reply(option_reply::ACK, &[]);
    }

    pub(super) fn error(&mut self, kind: u32, message: &str) {
        self.reply(kind, &[message.as_bytes()]);
    }

    pub(super) fn malformed(&mut self) {
        self.error(option_reply::INVALID, "the option's data is malformed");
    }

    pub(super) fn no_such_export(&mut self) {
        self.error(option_reply::UNKNOWN, "there is no export of that name");
    }

    /// One export of a list.
    pub(super) fn server(&mut self, export: &Export) {
        let name = export.name().as_bytes();
        let description = export.description().as_bytes();
        let len = u32::try_from(name.len()).expect("names are short");
        self.reply(
            option_reply::SERVER,
            &[&len.to_be_bytes(), name, description],
        );
    }

    /// What every client must be told.
    pub(super) fn info_export(&mut self, export: &Export, flags: u16) {
        self.reply(
            option_reply::INFO,
            &[
                &info::EXPORT.to_be_bytes(),
                &export.size().to_be_bytes(),
                &flags.to_be_bytes(),
            ],
        );
    }

    /// What a client asked to be told. Nothing for what there is no answer to.
    pub(super) fn info(&mut self, export: &Export, request: u16) {
        let kind = &request.to_be_bytes();
        match request {
            info::NAME => self.reply(option_reply::INFO, &[kind, export.name().as_bytes()]),
            info::DESCRIPTION => {
                self.reply(option_reply::INFO, &[kind, export.description().as_bytes()]);
            }
            info::BLOCK_SIZE => {
                let sizes = export.sizes();
                self.reply(
                    option_reply::INFO,
                    &[
                        kind,
                        &sizes.minimum.to_be_bytes(),
                        &sizes.preferred.to_be_bytes(),
                        &PAYLOAD_BYTES_MAX.to_be_bytes(),
                    ],
                );
            }
            _ => {}
        }
    }

    pub(super) fn meta_context(&mut self, id: u32, context: Context) {
        self.reply(
            option_reply::META_CONTEXT,
            &[&id.to_be_bytes(), context.name().as_bytes()],
        );
    }

    fn reply(&mut self, kind: u32, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let len = u32::try_from(len).expect("replies are short");
        self.replies
            .extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        self.replies.extend_from_slice(&self.option.to_be_bytes());
        self.replies.extend_from_slice(&kind.to_be_bytes());
        self.replies.extend_from_slice(&len.to_be_bytes());
        for part in parts {
            self.replies.extend_from_slice(part);
        }
    }
}
