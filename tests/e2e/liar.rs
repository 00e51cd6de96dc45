//! A custodian's keys in the hands of a liar: two proposals for one height. Whoever hears them holds them against it, and a stranger who
//! has the export and the public history checks it.

use concordat_finality::message::{self, Kind as Word};
use concordat_finality::{Context, wire};
use concordat_node::dir::CustodianDir;
use concordat_node::transport::{Member, Peers, Pin, Pins};
use prost::Message as _;

use crate::town::{Town, WAIT};

/// Far above every height of the test.
const HEIGHT: u64 = 1_000_000;

/// Custodian 4 lies; `evidence export` and `evidence check` show it.
pub async fn is_named(town: &Town) {
    // The custodian itself goes on: its directory is its own, so the keys are taken from a copy.
    let (its, copy) = (town.layout.dirs().swap_remove(3), town.home.path().join("stolen"));
    let dir = CustodianDir::open(&copy).unwrap();
    for entry in std::fs::read_dir(its).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() && entry.file_name() != "lock" {
            std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
    }
    let keys = dir.keys(&dir.config().unwrap()).unwrap();
    let genesis = dir.genesis().unwrap().unwrap().genesis;
    let context = Context::new(genesis.clone()).unwrap();
    let certificate = keys.certificate(dir.card().unwrap().certificate());
    let pin = Pin(*genesis.roster.members()[0].certificate.as_bytes());
    let address = dir.proposal().unwrap().addresses[&1].clone();
    let peers =
        Peers::new(certificate, Pins::new([(1, pin)]), vec![Member { number: 1, address, pin }]).unwrap();
    let custodians = town.custodians();
    let lie = async {
        loop {
            // Epochs may end meanwhile: what is signed for a past one is nobody's business any more.
            let status = town.run_with(&["status"], &custodians).await;
            assert_eq!(status.status, 0, "{status}");
            let epoch = status.lines().iter().filter_map(|line| line["epoch"].as_u64()).max().unwrap();
            for id in [1, 2] {
                let body =
                    wire::Propose { epoch, height: HEIGHT, number: 1, id: vec![id; 32] }.encode_to_vec();
                let sealed = message::seal(&context, keys.keypair(), 4, 1, Word::Propose, body, Vec::new());
                peers.send(1, sealed.encode_to_vec().into()).unwrap();
            }
            let held = town.run_with(&["evidence", "export"], &custodians).await;
            assert_eq!(held.status, 0, "{held}");
            if !held.stdout.is_empty() {
                return held;
            }
        }
    };
    let held = tokio::time::timeout(WAIT, lie).await.unwrap();
    let piece = &held.lines()[0];
    assert_eq!((piece["custodian"].as_u64(), piece["place"].as_u64()), (Some(4), Some(HEIGHT)), "{held}");

    // Without any custodian: the file, the group's key and its events.
    let file = town.home.path().join("held");
    std::fs::write(&file, &held.stdout).unwrap();
    let shown = town.run(&["evidence", "check", file.to_str().unwrap()]).await;
    assert_eq!(shown.status, 0, "{shown}");
    let line = &shown.lines()[0];
    assert_eq!((line["ok"].as_bool(), line["custodian"].as_u64()), (Some(true), Some(4)), "{shown}");
    assert_eq!((&line["fault"], &line["epoch"]), (&piece["fault"], &piece["epoch"]), "{shown}");

    // Another byte of what was signed, and it shows nothing.
    let signed = piece["signed"].as_str().unwrap();
    let (kept, last) = signed.split_at(signed.len() - 2);
    let other = if last == "00" { "01" } else { "00" };
    std::fs::write(&file, held.stdout.replace(signed, &format!("{kept}{other}"))).unwrap();
    let forged = town.run(&["evidence", "check", file.to_str().unwrap()]).await;
    assert_eq!((forged.status, forged.error()["code"].as_str()), (1, Some("no_proof")), "{forged}");
    // The other three go on without it as a leader.
    town.goes_on().await;
}
