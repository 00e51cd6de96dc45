//! The cluster that is explored: four custodians whose keys the explorer holds, the requests of their users, and everything
//! that anybody may sign.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use concordat_events::genesis::{CEL_ENGINE, PROTOCOL_VERSION};
use concordat_events::hash::tagged;
use concordat_events::request::definition_tags;
use concordat_events::{Custodian, Event, Genesis, Hash, Mode, PublicKey, Roster, ValidEvent};
use concordat_finality::message::{Kind, seal};
use concordat_finality::{Context, Message, Msg, Rules};
use nostr::{EventBuilder, Keys, Tag, Timestamp};
use secp256k1::Keypair;

use crate::standin::{StandInKeys, StandInShare, keypair};

/// When the exploration begins, ms since 1970.
pub const WALL: u64 = 1_800_000_000_000;

/// How many custodians.
pub const CUSTODIANS: u16 = 4;

/// The cluster.
pub struct Founding {
    /// What all custodians know.
    pub context: Arc<Context>,
    identities: BTreeMap<u16, Keypair>,
    /// The group's key.
    pub keys: StandInKeys,
    /// The request that is to be certified at height 1, 2, ...
    pub requests: Vec<ValidEvent>,
}

impl Founding {
    /// Founds the cluster, whose messages are read by these rules, with a request for each of `heights` heights after Head(0).
    ///
    /// # Errors
    /// When what is founded isn't valid.
    pub fn new<R: Rules>(heights: u64) -> Result<Self> {
        let identities: BTreeMap<u16, Keypair> = (1..=CUSTODIANS)
            .map(|number| (number, keypair("chaos/identity", &number.to_be_bytes())))
            .collect();
        let members = identities.iter().map(|(number, identity)| Custodian {
            number: *number,
            name: format!("custodian {number}"),
            identity: PublicKey::from_byte_array(identity.x_only_public_key().0.serialize()),
            certificate: tagged("chaos/certificate", &[&number.to_be_bytes()]),
        });
        let roster = Roster::new(members.collect())?;
        let keys = StandInKeys::deal(roster.numbers().collect(), roster.q(), b"check");
        let genesis = Genesis {
            version: PROTOCOL_VERSION,
            name: "check".into(),
            description: String::new(),
            time_ms: WALL - 1_000,
            ceremony: Hash::ZERO,
            group_key: PublicKey::from_byte_array(keys.group_key()),
            threshold: u16::try_from(roster.q())?,
            roster,
            relays: vec!["ws://relay.invalid".into()],
            kinds: Default::default(),
            admission: Default::default(),
            engines: vec![CEL_ENGINE.into()],
        };
        let context = Arc::new(Context::new(genesis)?.under::<R>());
        let requests = (1..=heights).map(|height| definition(&context, height)).collect::<Result<_>>()?;
        Ok(Founding { context, identities, keys, requests })
    }

    /// A custodian's identity key.
    ///
    /// # Errors
    /// When there is no such custodian.
    pub fn identity(&self, number: u16) -> Result<Keypair> {
        self.identities.get(&number).copied().with_context(|| format!("there is no custodian {number}"))
    }

    /// A custodian's share of the group's key.
    pub fn share(&self, number: u16) -> StandInShare {
        StandInShare { number, keys: self.keys.clone() }
    }

    /// Signs any message as any custodian.
    ///
    /// # Errors
    /// When nobody would accept it.
    pub fn forge(
        &self,
        sender: u16,
        kind: Kind,
        body: &impl prost::Message,
        attachment: Vec<u8>,
    ) -> Result<Msg> {
        let identity = self.identity(sender)?;
        let envelope = seal(&self.context, &identity, sender, 1, kind, body.encode_to_vec(), attachment);
        Ok(Message::check(&self.context, envelope)?)
    }
}

/// The definition of a small machine: a request that is valid at every height.
fn definition(context: &Context, height: u64) -> Result<ValidEvent> {
    let tags = definition_tags(&context.group(), &format!("m{height}"), None, Mode::Sequenced);
    let tags = tags.iter().map(Tag::parse).collect::<Result<Vec<Tag>, _>>()?;
    let user = keypair("chaos/user", b"user");
    let machine =
        r#"{"id":"m","initial":"a","context":{},"states":{"a":{"on":{"GO":"b"}},"b":{"on":{"GO":"a"}}}}"#;
    let event: Event = EventBuilder::new(nostr::Kind::from_u16(concordat_events::kinds::DEFINITION), machine)
        .tags(tags)
        .custom_created_at(Timestamp::from_secs(WALL / 1000))
        .sign_with_keys(&Keys::new(user.secret_key().into()))?;
    Ok(ValidEvent::check(event)?)
}
