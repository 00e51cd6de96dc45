//! Too many custodians restored at once: the group stands still and says why, and its operators agree where it goes on.

use std::path::{Path, PathBuf};

use crate::offices::where_all_stand;
use crate::support::Ran;
use crate::town::{Town, WAIT};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The directory of a custodian is lost, and made again from its backup.
async fn restored(town: &mut Town, number: u16, dir: &Path) {
    let home = town.home.path().to_owned();
    let (config, backup) = (dir.join("custodian.toml"), home.join(format!("{number}.all.backup")));
    let made = town.run(&["backup", "--config", text(&config), "--out", text(&backup)]).await;
    assert_eq!(made.status, 0, "{made}");
    town.cluster.kill(number).await.unwrap();
    let passphrase = home.join(format!("passphrase-{number}"));
    if dir.join("passphrase").exists() {
        std::fs::rename(dir.join("passphrase"), &passphrase).unwrap();
    }
    std::fs::remove_dir_all(dir).unwrap();
    let back = ["restore", text(&backup), "--passphrase-file", text(&passphrase), "--dir", text(dir)];
    let made = town.run(&back).await;
    assert_eq!(made.status, 0, "{made}");
}

/// One operator's command.
async fn operator(town: &Town, dir: &Path, step: &str, more: &[&str], files: &[PathBuf]) -> Ran {
    let config = dir.join("custodian.toml");
    let files: Vec<&str> = files.iter().map(|file| text(file)).collect();
    town.run(&[&["recover", step, "--config", text(&config)], more, &files].concat()).await
}

/// As [`Town::goes_on`]; says where all stand if it doesn't.
async fn goes_on(town: &Town) -> u64 {
    let sent = town.run(&["send", &town.machine, "ADD", "--data", r#"{"by":1}"#, "--timeout", "60"]).await;
    if sent.status != 0 {
        panic!("{sent}\n{}", where_all_stand(town).await);
    }
    sent.lines()[0]["height"].as_u64().unwrap()
}

fn refused(ran: &Ran, status: i32, code: &str) {
    assert_eq!((ran.status, ran.error()["code"].as_str()), (status, Some(code)), "{ran}");
    assert!(!ran.error()["hint"].as_str().unwrap().is_empty(), "{ran}");
}

/// Three of four are restored at once. All run and are certified as before, when this is over.
pub async fn after_too_many_were_restored(town: &mut Town) {
    let (dirs, home) = (town.layout.dirs(), town.home.path().to_owned());
    let height = town.goes_on().await;
    for number in [2, 3, 4] {
        restored(town, number, &dirs[usize::from(number) - 1]).await;
    }
    for number in [2, 3, 4] {
        town.cluster.restart(number).unwrap();
    }
    // Each of them takes in the heads up to the roster in force and can't come out of quarantine. It says so, and what to do.
    for (number, mut heard) in town.cluster.follow() {
        if number > 1 {
            let says = heard.wait_for(|heard| {
                heard.alarms.iter().any(|alarm| alarm.contains("restored") && alarm.contains("`recover`"))
            });
            if !matches!(tokio::time::timeout(WAIT, says).await, Ok(Ok(_))) {
                panic!(
                    "custodian {number} doesn't say why it stands still:\n{}",
                    where_all_stand(town).await
                );
            }
        }
    }
    let sent = town.run(&["send", &town.machine, "ADD", "--data", r#"{"by":7}"#, "--timeout", "2"]).await;
    assert_eq!(sent.error()["code"], "no_outcome", "{sent}");
    let report = |number: usize| home.join(format!("{number}.report"));
    let running = operator(town, &dirs[0], "report", &["--out", text(&report(1))], &[]).await;
    refused(&running, 3, "directory_in_use");
    for number in 1..=4 {
        town.cluster.kill(number).await.unwrap();
    }

    // Everybody reports.
    for number in 1..=4 {
        let ran = operator(town, &dirs[number - 1], "report", &["--out", text(&report(number))], &[]).await;
        assert_eq!(ran.status, 0, "{ran}");
        let shown = ran.lines()[0]["height"].as_u64();
        assert_eq!(shown >= Some(height), number == 1, "{ran}");
    }
    // The head that relays have is known to the first alone: no plan without it, and none of too few.
    let without: Vec<PathBuf> = (2..=4).map(report).collect();
    refused(&operator(town, &dirs[1], "plan", &[], &without).await, 4, "relays_ahead");
    let reports: Vec<PathBuf> = (1..=3).map(report).collect();
    refused(&operator(town, &dirs[1], "plan", &[], &reports[..2]).await, 3, "too_few");
    let mut plans = Vec::new();
    for dir in &dirs[..3] {
        let ran = operator(town, dir, "plan", &[], &reports).await;
        assert_eq!(ran.status, 0, "{ran}");
        let plan = &ran.lines()[0];
        assert!(
            plan["certified"].as_u64() >= Some(height) && plan["absent"] == serde_json::json!([4]),
            "{plan}"
        );
        plans.push(plan["words"].as_str().unwrap().to_owned());
    }
    assert!(plans.iter().all(|words| *words == plans[0]), "{plans:?}");

    // Nobody signs without having named the risk; a quorum signs, and keeps what it has signed.
    let signature = |number: usize| home.join(format!("{number}.signature"));
    let unasked = operator(town, &dirs[0], "sign", &["--out", text(&signature(1))], &reports).await;
    refused(&unasked, 2, "not_confirmed");
    for number in 1..=3 {
        let out = signature(number);
        let more = ["--accept", "heads-may-be-lost", "--out", text(&out)];
        let ran = operator(town, &dirs[number - 1], "sign", &more, &reports).await;
        assert_eq!(ran.status, 0, "custodian {number}: {ran}");
        assert_eq!(ran.lines()[0]["words"].as_str(), Some(plans[0].as_str()), "{ran}");
    }
    let signatures: Vec<PathBuf> = (1..=3).map(signature).collect();
    refused(&operator(town, &dirs[0], "keep", &[], &signatures[..2]).await, 3, "too_few");
    for dir in &dirs[..3] {
        let ran = operator(town, dir, "keep", &[], &signatures).await;
        assert_eq!(ran.status, 0, "{ran}");
        assert_eq!(ran.lines()[0]["own"].as_bool(), Some(true), "{ran}");
    }

    // The group goes on from the head that relays have; who took no part comes back as after any restore.
    for number in 1..=4 {
        town.cluster.restart(number).unwrap();
    }
    assert!(goes_on(town).await > height);
    goes_on(town).await;
    let verified = town.run(&["verify"]).await;
    assert_eq!(verified.status, 0, "{verified}");
}
