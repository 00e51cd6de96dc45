//! The protobuf form of a ceremony's messages. Only [`super::message`] uses it;
//! everything else sees the parsed types.

use zeroize::Zeroize;

/// One message: version, ceremony, and exactly one body.
#[derive(prost::Message)]
#[prost(skip_debug)]
pub(super) struct Envelope {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub ceremony: Vec<u8>,
    #[prost(oneof = "Body", tags = "10, 11, 12, 13, 14, 15, 16, 17, 18")]
    pub body: Option<Body>,
}

/// The kinds of message.
#[derive(prost::Oneof)]
#[prost(skip_debug)]
pub(super) enum Body {
    #[prost(bytes, tag = "10")]
    Round1(Vec<u8>),
    #[prost(message, tag = "11")]
    Echo(Hashes),
    #[prost(message, tag = "12")]
    Round2(Round2),
    #[prost(bytes, tag = "13")]
    Confirm(Vec<u8>),
    #[prost(bytes, tag = "14")]
    TestCommit(Vec<u8>),
    #[prost(message, tag = "15")]
    TestShare(TestShare),
    #[prost(bytes, tag = "16")]
    Done(Vec<u8>),
    #[prost(message, tag = "17")]
    Abort(Abort),
    #[prost(bytes, tag = "18")]
    Deal(Vec<u8>),
}

/// One hash per custodian in roster order.
#[derive(prost::Message)]
pub(super) struct Hashes {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub hashes: Vec<Vec<u8>>,
}

/// A share for one receiver. Secret: wiped when dropped, never printed.
#[derive(prost::Message)]
#[prost(skip_debug)]
pub(super) struct Round2 {
    #[prost(uint32, tag = "1")]
    pub to: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub share: Vec<u8>,
}

impl Drop for Round2 {
    fn drop(&mut self) {
        self.share.zeroize();
    }
}

/// A share of the test signature and the session it is for.
#[derive(prost::Message)]
pub(super) struct TestShare {
    #[prost(message, optional, tag = "1")]
    pub session: Option<Hashes>,
    #[prost(bytes = "vec", tag = "2")]
    pub share: Vec<u8>,
}

/// The end of a ceremony that went wrong.
#[derive(prost::Message)]
pub(super) struct Abort {
    #[prost(uint32, tag = "1")]
    pub reason: u32,
    #[prost(uint32, repeated, tag = "2")]
    pub suspects: Vec<u32>,
}
