//! Four founders, their group and two users, all of whose keys the harness has. Keys follow from names, so that a corpus
//! means the same in every run.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use concordat_events::genesis::{CEL_ENGINE, PROTOCOL_VERSION};
use concordat_events::hash::{Hash, tagged};
use concordat_events::{Custodian, EventError, Genesis, PublicKey, Roster, Template, ValidEvent};
use concordat_finality::Context;
use secp256k1::{Keypair, Message, SECP256K1};

/// Time of the genesis, ms since 1970.
pub const START: u64 = 1_800_000_000_000;

/// See the module's header.
pub struct World {
    pub context: Context,
    pub custodians: BTreeMap<u16, Keypair>,
    pub group: Keypair,
    pub users: [Keypair; 2],
}

fn key(name: &str) -> Keypair {
    let seed = tagged("concordat/fuzz", &[name.as_bytes()]);
    Keypair::from_seckey_slice(SECP256K1, seed.as_bytes()).unwrap()
}

/// The x-only key.
pub fn public(key: &Keypair) -> PublicKey {
    PublicKey::from_byte_array(key.x_only_public_key().0.serialize())
}

/// The cluster.
pub fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let custodians: BTreeMap<u16, Keypair> =
            (1..=4).map(|number| (number, key(&format!("custodian {number}")))).collect();
        let members = custodians.iter().map(|(number, key)| Custodian {
            number: *number,
            name: format!("custodian {number}"),
            identity: public(key),
            certificate: tagged("concordat/fuzz", &[&number.to_be_bytes()]),
        });
        let roster = Roster::new(members.collect()).unwrap();
        let group = key("group");
        let genesis = Genesis {
            version: PROTOCOL_VERSION,
            name: "fuzz".into(),
            description: String::new(),
            time_ms: START,
            ceremony: Hash::ZERO,
            group_key: public(&group),
            threshold: u16::try_from(roster.q()).unwrap(),
            roster,
            relays: vec!["ws://127.0.0.1:1".into()],
            kinds: Default::default(),
            admission: Default::default(),
            engines: vec![CEL_ENGINE.into()],
        };
        let context = Context::new(genesis).unwrap();
        World { context, custodians, group, users: [key("user 1"), key("user 2")] }
    })
}

/// Signs a template as its author, if the harness has the author's key.
pub fn sign(template: &Template) -> Option<Result<ValidEvent, EventError>> {
    let world = world();
    let keys = [&world.group, &world.users[0], &world.users[1]];
    let key = keys.into_iter().find(|key| public(key) == template.author)?;
    Some(template.signed(&signature(key, &template.id())))
}

/// A BIP340 signature that is the same in every run.
pub fn signature(key: &Keypair, hash: &Hash) -> [u8; 64] {
    SECP256K1.sign_schnorr_no_aux_rand(&Message::from_digest(*hash.as_bytes()), key).serialize()
}
