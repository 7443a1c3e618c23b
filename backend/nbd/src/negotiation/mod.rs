//! Fixed newstyle negotiation: from the first byte of a connection to the transmission phase.

mod answer;
mod option;

use thiserror::Error;

use self::answer::Answers;
use self::option::{ExportChoice, InfoRequests, Malformed, MetaQuery};
use crate::context::{Context, Contexts};
use crate::export::Export;
use crate::read::Fields;
use crate::session::Session;
use crate::wire::{INIT_MAGIC, OPTION_MAGIC, handshake, option as code, option_reply};

/// Length in bytes of what the server says first.
pub const GREETING_BYTES: usize = 18;

/// Most bytes of an option that are looked at, its header included: room for the longest name, and for many queries.
/// Who calls [`Negotiation::advance`] must be able to show it that much at once.
pub const OPTION_BYTES_MAX: usize = 16 << 10;

/// Most options in one negotiation; real clients send fewer than ten.
pub const OPTIONS_MAX: u32 = 128;

/// Most bytes of an option that are passed over: longer ones end the connection.
const SKIPPED_BYTES_MAX: u32 = 1 << 20;

const OPTION_HEADER_BYTES: usize = 16;

/// The negotiation of one connection.
#[derive(Debug)]
pub struct Negotiation {
    state: State,
    options: u32,
    no_zeroes: bool,
    session: Session,
}

#[derive(Debug)]
enum State {
    Flags,
    Option,
    /// Bytes of an option that nobody looks at.
    Skip {
        left: u32,
    },
}

/// What [`Negotiation::advance`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advance {
    /// How many bytes of the input were used up. They are not to be shown again.
    pub consumed: usize,
    /// Where the negotiation stands.
    pub outcome: Outcome,
}

/// Where a negotiation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// More bytes are needed: call again with what was not consumed and what follows it.
    NeedMore,
    /// A step was made: call again.
    Continue,
    /// Transmission begins with the byte after those consumed.
    Transmission(Session),
    /// The client has had enough: send what there is and close.
    Aborted,
}

/// What a connection cannot go on after.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NegotiationError {
    /// The client wants something that was not offered.
    #[error("the client answers the greeting with unknown flags, {0:#010x}")]
    ClientFlags(u32),
    /// Not an option.
    #[error("expected an option, which begins with {OPTION_MAGIC:#018x}, found {0:#018x}")]
    Magic(u64),
    /// An option that is too long to be passed over.
    #[error("option {option} has {len} bytes of data, more than the {SKIPPED_BYTES_MAX} allowed")]
    OptionLength {
        /// Which.
        option: u32,
        /// Bytes.
        len: u32,
    },
    /// A client that asks without end.
    #[error("more than {OPTIONS_MAX} options in one negotiation")]
    TooManyOptions,
    /// An export that is not there, asked for in the old way, which knows no error replies.
    #[error("the client asks for an export that is not there, in a way that knows no error reply")]
    NoSuchExport,
}

impl Default for Negotiation {
    fn default() -> Self {
        Self::new()
    }
}

impl Negotiation {
    /// A negotiation of which nothing has been said but the greeting.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Flags,
            options: 0,
            no_zeroes: false,
            session: Session {
                structured: false,
                contexts: Contexts::EMPTY,
            },
        }
    }

    /// What the server says first.
    #[must_use]
    pub fn greeting() -> [u8; GREETING_BYTES] {
        let flags = handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES;
        let mut bytes = [0; GREETING_BYTES];
        bytes[..8].copy_from_slice(&INIT_MAGIC.to_be_bytes());
        bytes[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        bytes[16..].copy_from_slice(&flags.to_be_bytes());
        bytes
    }

    /// Looks at the client's next bytes, and appends what is to be answered to `replies`: at most the answer to one
    /// option, less than [`OPTION_BYTES_MAX`] bytes.
    ///
    /// # Errors
    ///
    /// If the connection cannot go on; nothing was appended then.
    pub fn advance(
        &mut self,
        export: &Export,
        input: &[u8],
        replies: &mut Vec<u8>,
    ) -> Result<Advance, NegotiationError> {
        match self.state {
            State::Flags => self.take_flags(input),
            State::Option => self.take_option(export, input, replies),
            State::Skip { left } => Ok(self.skip(left, input)),
        }
    }

    fn take_flags(&mut self, input: &[u8]) -> Result<Advance, NegotiationError> {
        let Some(flags) = Fields(input).u32() else {
            return Ok(Advance::NEED_MORE);
        };
        let known = handshake::CLIENT_FIXED_NEWSTYLE | handshake::CLIENT_NO_ZEROES;
        if flags & !known != 0 {
            return Err(NegotiationError::ClientFlags(flags));
        }
        self.no_zeroes = flags & handshake::CLIENT_NO_ZEROES != 0;
        self.state = State::Option;
        Ok(Advance::by(4))
    }

    fn skip(&mut self, left: u32, input: &[u8]) -> Advance {
        let now = input.len().min(left as usize);
        if now < left as usize {
            let left = left - u32::try_from(now).expect("less than a u32");
            self.state = State::Skip { left };
            return Advance {
                consumed: now,
                outcome: Outcome::NeedMore,
            };
        }
        self.state = State::Option;
        Advance::by(now)
    }

    fn take_option(
        &mut self,
        export: &Export,
        input: &[u8],
        replies: &mut Vec<u8>,
    ) -> Result<Advance, NegotiationError> {
        let mut fields = Fields(input);
        if let Some(magic) = fields.u64()
            && magic != OPTION_MAGIC
        {
            return Err(NegotiationError::Magic(magic));
        }
        let (Some(option), Some(len)) = (fields.u32(), fields.u32()) else {
            return Ok(Advance::NEED_MORE);
        };
        if len > SKIPPED_BYTES_MAX {
            return Err(NegotiationError::OptionLength { option, len });
        }
        if self.options == OPTIONS_MAX {
            return Err(NegotiationError::TooManyOptions);
        }
        if OPTION_HEADER_BYTES + len as usize > OPTION_BYTES_MAX {
            return self.refuse_long(option, len, replies);
        }
        let Some(data) = fields.0.get(..len as usize) else {
            return Ok(Advance::NEED_MORE);
        };
        self.options += 1;
        let outcome = self.answer(export, option, data, replies)?;
        Ok(Advance {
            consumed: OPTION_HEADER_BYTES + data.len(),
            outcome,
        })
    }

    fn refuse_long(
        &mut self,
        option: u32,
        len: u32,
        replies: &mut Vec<u8>,
    ) -> Result<Advance, NegotiationError> {
        if option == code::EXPORT_NAME {
            return Err(NegotiationError::NoSuchExport);
        }
        self.options += 1;
        self.state = State::Skip { left: len };
        let mut answers = Answers { option, replies };
        answers.error(option_reply::TOO_BIG, "the option is too long");
        Ok(Advance::by(OPTION_HEADER_BYTES))
    }

    fn answer(
        &mut self,
        export: &Export,
        option: u32,
        data: &[u8],
        replies: &mut Vec<u8>,
    ) -> Result<Outcome, NegotiationError> {
        let mut answers = Answers { option, replies };
        match option {
            code::EXPORT_NAME => return self.enter_by_name(export, data, answers.replies),
            code::ABORT => {
                answers.acknowledge();
                return Ok(Outcome::Aborted);
            }
            code::INFO | code::GO => match ExportChoice::parse(data) {
                Err(Malformed) => answers.malformed(),
                Ok(choice) if !export.is_called(choice.name) => answers.no_such_export(),
                Ok(choice) => {
                    self.describe(export, choice.requests, &mut answers);
                    if option == code::GO {
                        return Ok(Outcome::Transmission(self.session));
                    }
                }
            },
            code::LIST_META_CONTEXT | code::SET_META_CONTEXT => {
                self.meta_context(export, option, data, &mut answers);
            }
            code::LIST | code::STARTTLS | code::STRUCTURED_REPLY if !data.is_empty() => {
                answers.error(option_reply::INVALID, "this option has no data");
            }
            code::LIST => {
                answers.server(export);
                answers.acknowledge();
            }
            code::STRUCTURED_REPLY => {
                self.session.structured = true;
                answers.acknowledge();
            }
            _ => answers.error(option_reply::UNSUPPORTED, "the option is not supported"),
        }
        Ok(Outcome::Continue)
    }

    /// The old way into transmission.
    fn enter_by_name(
        &self,
        export: &Export,
        name: &[u8],
        replies: &mut Vec<u8>,
    ) -> Result<Outcome, NegotiationError> {
        if !export.is_called(name) {
            return Err(NegotiationError::NoSuchExport);
        }
        replies.extend_from_slice(&export.size().to_be_bytes());
        replies.extend_from_slice(&self.session.flags(export).to_be_bytes());
        if !self.no_zeroes {
            replies.extend_from_slice(&[0; 124]);
        }
        Ok(Outcome::Transmission(self.session))
    }

    fn describe(&self, export: &Export, requests: InfoRequests<'_>, answers: &mut Answers<'_>) {
        answers.info_export(export, self.session.flags(export));
        for request in requests.distinct() {
            answers.info(export, request);
        }
        answers.acknowledge();
    }

    fn meta_context(
        &mut self,
        export: &Export,
        option: u32,
        data: &[u8],
        answers: &mut Answers<'_>,
    ) {
        let set = option == code::SET_META_CONTEXT;
        if set {
            // Also if this fails: it replaces what was set before.
            self.session.contexts = Contexts::EMPTY;
        }
        if !self.session.structured {
            answers.error(
                option_reply::INVALID,
                "structured replies must be negotiated first",
            );
            return;
        }
        let query = match MetaQuery::parse(data) {
            Err(Malformed) => return answers.malformed(),
            Ok(query) if !export.is_called(query.name) => return answers.no_such_export(),
            Ok(query) => query,
        };
        let found = if set {
            query.selected()
        } else {
            query.listed()
        };
        for context in found.iter() {
            // Only contexts that are set have a number.
            let id = if set { context.id() } else { 0 };
            answers.meta_context(id, context);
        }
        if set {
            self.session.contexts = found;
        }
        answers.acknowledge();
    }
}

impl MetaQuery<'_> {
    fn selected(&self) -> Contexts {
        self.queries()
            .filter_map(Context::named)
            .fold(Contexts::EMPTY, Contexts::with)
    }

    fn listed(&self) -> Contexts {
        Context::ALL
            .into_iter()
            .filter(|context| self.is_empty() || self.queries().any(|query| context.matches(query)))
            .fold(Contexts::EMPTY, Contexts::with)
    }
}

impl Advance {
    const NEED_MORE: Self = Self {
        consumed: 0,
        outcome: Outcome::NeedMore,
    };

    fn by(consumed: usize) -> Self {
        Self {
            consumed,
            outcome: Outcome::Continue,
        }
    }
}
