//! Users: they sign requests, hand them to a custodian, ask again until they are certified, and remember what they were told.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use concordat_events::{Hash, Mode, PublicKey, ValidEvent, kinds, request};
use concordat_finality::Published;
use nostr::{EventBuilder, Keys, Kind, Tag, Timestamp};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::net::below;
use crate::cluster::WALL;

/// A machine that goes back and forth, and by itself when nobody has sent anything for two seconds.
const MACHINE: &str = r#"{"id":"m","initial":"a","context":{"n":0},"states":{
    "a":{"on":{"GO":{"target":"b","actions":{"type":"cel.assign","params":{"n":"context.n + 1"}}}}},
    "b":{"after":{"2000":"a"},"on":{"GO":"a"}}}}"#;

/// A request on its way.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The event.
    pub event: ValidEvent,
    /// When it was first sent, ms.
    pub at: u64,
    /// The height at which an honest custodian said that it is certified.
    pub acknowledged: Option<u64>,
}

/// See the module's header.
pub struct Users {
    keys: Vec<Keys>,
    group: PublicKey,
    dice: ChaCha20Rng,
    definitions: u64,
    /// Machines that are certified.
    machines: Vec<Hash>,
    /// Every request.
    pub sent: BTreeMap<Hash, Sent>,
    /// The certified history: the requests of each height.
    pub history: BTreeMap<u64, Vec<Hash>>,
}

impl Users {
    /// Some users of a group.
    pub fn new(group: PublicKey, seed: u64) -> Self {
        let mut dice = ChaCha20Rng::seed_from_u64(seed ^ 0x5573_6572_7300_0000);
        let keys = (0..4).map(|_| Keys::generate_with_rng(&mut dice)).collect();
        Users {
            keys,
            group,
            dice,
            definitions: 0,
            machines: Vec::new(),
            sent: BTreeMap::new(),
            history: BTreeMap::new(),
        }
    }

    fn sign(&mut self, kind: u16, tags: Vec<Vec<String>>, content: &str, now: u64) -> Result<ValidEvent> {
        let who = usize::try_from(below(&mut self.dice, self.keys.len() as u64))?;
        let keys = self.keys.get(who).ok_or_else(|| anyhow!("no user"))?;
        let tags = tags.iter().map(Tag::parse).collect::<Result<Vec<Tag>, _>>()?;
        let event = EventBuilder::new(Kind::from_u16(kind), content)
            .tags(tags)
            .custom_created_at(Timestamp::from_secs((WALL + now) / 1000))
            .build(keys.public_key())
            .sign_with_ctx(secp256k1::SECP256K1, &mut self.dice, keys)?;
        Ok(ValidEvent::check(event)?)
    }

    /// The next request: a definition now and then, else an input to a machine that runs.
    ///
    /// # Errors
    /// None but a defect.
    pub fn next(&mut self, now: u64) -> Result<ValidEvent> {
        let define = self.machines.is_empty() || below(&mut self.dice, 8) == 0;
        let event = if define {
            let d = format!("machine {}", self.definitions);
            self.definitions += 1;
            let tags = request::definition_tags(&self.group, &d, None, Mode::Sequenced);
            self.sign(kinds::DEFINITION, tags, MACHINE, now)?
        } else {
            let which = usize::try_from(below(&mut self.dice, self.machines.len() as u64))?;
            let machine = self.machines.get(which).copied().unwrap_or_default();
            let mut tags = request::input_tags(machine, "GO", None);
            // Two equal inputs of one user in one second would be one event.
            tags.push(vec!["n".into(), self.sent.len().to_string()]);
            self.sign(kinds::INPUT, tags, "", now)?
        };
        self.sent.insert(event.id(), Sent { event: event.clone(), at: now, acknowledged: None });
        Ok(event)
    }

    /// A request that a custodian makes; it is handed in, asked for and remembered as users' are.
    pub fn add(&mut self, event: ValidEvent, now: u64) {
        self.sent.insert(event.id(), Sent { event, at: now, acknowledged: None });
    }

    /// At which height it was said that a request is certified.
    pub fn certified(&self, request: &Hash) -> Option<u64> {
        self.sent.get(request)?.acknowledged
    }

    /// An honest custodian says that a head is certified.
    ///
    /// # Errors
    /// The promise that it breaks.
    pub fn told(&mut self, head: &Published) -> Result<(), String> {
        let height = head.head.height;
        let requests: Vec<Hash> = head.head.outcomes.iter().map(|(request, _)| *request).collect();
        let known = self.history.entry(height).or_insert_with(|| requests.clone());
        if *known != requests {
            return Err(format!("height {height} was told with other requests before"));
        }
        for (request, (_, outcome)) in head.requests.iter().zip(&head.head.outcomes) {
            if let Some(sent) = self.sent.get_mut(&request.id())
                && sent.acknowledged.is_none()
            {
                sent.acknowledged = Some(height);
                if outcome.reason().is_none() && request.kind() == kinds::DEFINITION {
                    self.machines.push(request.id());
                }
            }
        }
        Ok(())
    }

    /// Requests that nobody has acknowledged yet, oldest first.
    pub fn waiting(&self) -> Vec<ValidEvent> {
        let mut waiting: Vec<&Sent> = self.sent.values().filter(|sent| sent.acknowledged.is_none()).collect();
        waiting.sort_by_key(|sent| (sent.at, sent.event.id()));
        waiting.into_iter().map(|sent| sent.event.clone()).collect()
    }

    /// What was acknowledged stands in the history at the height that was told.
    ///
    /// # Errors
    /// The request that is missing.
    pub fn check(&self) -> Result<(), String> {
        for (request, sent) in &self.sent {
            if let Some(height) = sent.acknowledged
                && !self.history.get(&height).is_some_and(|requests| requests.contains(request))
            {
                return Err(format!("request {request} was acknowledged at height {height} and isn't there"));
            }
        }
        Ok(())
    }
}
