//! The file of blocks: restarts, crashes, damage, and disks that cannot be written.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{ITEMS, start};
use crate::support::{BINARY, OPERATED, PATIENCE, TestEnv, Verdict};

impl TestEnv {
    fn kill_and_restart(&mut self) {
        self.gateway.signal(Signal::KILL);
        self.gateway.restart();
    }
}

#[test]
fn acknowledged_block_survives_kill_9_and_a_restart() {
    let mut env = start("");
    env.block(&json!({"id": "17", "reason": "leaked"}));
    env.block(&json!({"name": "mobile \"app\"\n", "for": "1h"}));
    env.block(&json!({"token": "18|two-secret"}));
    env.block(&json!({"id": "99"}));
    env.unblock(&json!({"id": "99"}));
    let blocks = env.blocks();
    env.kill_and_restart();
    assert_eq!(env.statuses(), [401; 5]);
    assert_eq!(env.blocks(), blocks);
    env.gateway.signal(Signal::TERM);
    env.gateway.restart();
    assert_eq!(env.blocks(), blocks);
    assert_eq!(env.unblock(&json!({"name": "mobile \"app\"\n"})), 1);
    env.kill_and_restart();
    assert_eq!(env.statuses(), [401, 401, 401, 401, 200]);
    let file = env.gateway.directory().join("blocked.json");
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains("-secret"), "{text}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Kills the gateway at random moments while blocks are made.
#[test]
fn file_is_whole_whenever_the_gateway_is_killed() {
    let mut env = start("");
    let mut acknowledged = Vec::new();
    for round in 0..12_u64 {
        let admin = env.gateway.admin();
        let blocking = thread::spawn(move || {
            let fields = [("Authorization", "Bearer an-operators-token"), ("Connection", "close")];
            let mut made = Vec::new();
            for number in 0.. {
                let id = format!("{round}-{number}");
                let Ok(stream) = std::net::TcpStream::connect(admin) else { break };
                drop(stream);
                let body = json!({ "id": id }).to_string();
                let asked = std::panic::catch_unwind(|| {
                    crate::support::RawClient::connect(admin).request(
                        "POST",
                        "/tokens/block",
                        &fields,
                        body.as_bytes(),
                    )
                });
                match asked {
                    Ok(response) if response.status == 200 => made.push(id),
                    _ => break,
                }
            }
            made
        });
        thread::sleep(Duration::from_millis(20 + round * 7));
        env.gateway.signal(Signal::KILL);
        acknowledged.extend(blocking.join().unwrap());
        env.gateway.restart();
        let blocks = env.blocks();
        let listed: std::collections::HashSet<&str> =
            blocks.iter().filter_map(|block| block["id"].as_str()).collect();
        for id in &acknowledged {
            assert!(listed.contains(id.as_str()), "{id} is lost in round {round}");
        }
    }
    assert!(acknowledged.len() > 12, "{}", acknowledged.len());
}

#[test]
fn block_that_has_ended_does_not_return_after_a_restart() {
    let mut env = start("");
    env.block(&json!({"id": "17", "for": "300ms"}));
    env.gateway.signal(Signal::KILL);
    thread::sleep(Duration::from_millis(300));
    env.gateway.restart();
    assert_eq!((env.status(ITEMS, "17|one-secret"), env.blocks().len()), (200, 0));
}

#[test]
fn damaged_file_stops_the_start_with_its_place() {
    let mut env = start("");
    env.block(&json!({"id": "17"}));
    env.gateway.signal(Signal::KILL);
    env.gateway.wait_exit(PATIENCE);
    let directory = env.gateway.directory();
    let file = directory.join("blocked.json");
    let good = fs::read_to_string(&file).unwrap();
    let config = directory.join("gateway.yaml");
    let run = |command: &str| -> Output {
        Command::new(BINARY).args([command, "--config"]).arg(&config).output().unwrap()
    };
    for (text, place) in [
        (String::new(), "blocked.json:1:"),
        (good.replace("\"id\"", "\"ID\""), "blocked.json:2:"),
        (good[..good.len() / 2].to_owned(), "blocked.json:2:"),
    ] {
        fs::write(&file, &text).unwrap();
        for (command, code) in [("run", 78), ("check", 1)] {
            let output = run(command);
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(code), "{command}: {stderr}");
            for part in [place, "blocked.path", "help: "] {
                assert!(stderr.contains(part), "{command}: {part} is not in {stderr}");
            }
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), text, "the file is evidence");
    }
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert_eq!(run("run").status.code(), Some(78));
    fs::remove_dir(&file).unwrap();
    assert_eq!(run("check").status.code(), Some(0), "a missing file has no blocks");
}

#[test]
fn block_without_a_writable_file_holds_and_is_reported() {
    let env = TestEnv::builder().yaml(OPERATED).verdict("17|one-secret", Verdict::active(&["*"])).configure(
        |builder| {
            let builder = builder.file("in-the-way", "");
            builder.yaml("blocked:\n  path: in-the-way/blocked.json\n")
        },
    );
    let env = env.start();
    let warned =
        |line: &Value| line["message"].as_str().is_some_and(|it| it.starts_with("`blocked.path` cannot"));
    env.gateway.wait_for_log(warned);
    let response = env.change_block("POST", &json!({"id": "17"}));
    assert_eq!(response.status, 500, "{}", response.text());
    assert!(response.json()["message"].as_str().unwrap().contains("not after a restart"));
    assert_eq!(env.status(ITEMS, "17|one-secret"), 401);
    assert_eq!(env.gateway.metrics().metric("blocked_write_errors_total"), 1.0);
    let line = env.gateway.wait_for_log(|line| line["level"] == "ERROR");
    assert!(line["message"].as_str().unwrap().contains("the blocks cannot be written"), "{line}");
    let (code, _, stderr) = env.tokens_subcommand(&["block", "--id", "18"], "");
    assert!(code == 1 && stderr.contains("500") && stderr.contains("restart"), "{stderr}");
    // Once the file can be written, all blocks are in it.
    fs::remove_file(env.gateway.directory().join("in-the-way")).unwrap();
    env.block(&json!({"id": "19"}));
    let text = fs::read_to_string(env.gateway.directory().join("in-the-way/blocked.json")).unwrap();
    for id in ["17", "18", "19"] {
        assert!(text.contains(&format!("{{\"id\":\"{id}\"")), "{text}");
    }
}

#[test]
fn full_disk_loses_no_block() {
    let mut env = start("");
    env.block(&json!({"id": "17"}));
    let text = fs::read_to_string(env.gateway.directory().join("blocked.json")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("blocked.json"), &text).unwrap();
    let path = format!("blocked:\n  path: {}/blocked.json\n", directory.path().display());
    let limited = TestEnv::builder().yaml(OPERATED).verdict("18|two", Verdict::active(&["*"]));
    let limited = limited.configure(|builder| builder.yaml(&path).file_size_limit(4)).start();
    let reason = "r".repeat(255);
    let mut failed = false;
    for number in 0..20 {
        let response = limited.change_block("POST", &json!({"id": format!("b{number}"), "reason": reason}));
        failed |= response.status == 500;
        assert!(matches!(response.status, 200 | 500), "{}", response.text());
    }
    assert!(failed);
    assert_eq!(limited.blocks().len(), 21);
    drop(limited);
    let kept = fs::read_to_string(directory.path().join("blocked.json")).unwrap();
    assert!(kept.contains("\"17\"") && serde_json::from_str::<Value>(&kept).is_ok(), "{kept}");
    assert!(!directory.path().join("blocked.json.new").exists());
    env.kill_and_restart();
    assert_eq!(env.status(ITEMS, "17|one-secret"), 401);
}

/// During an upgrade the old and the new process have the same file.
#[test]
fn processes_with_one_file_merge_their_blocks() {
    let directory = tempfile::tempdir().unwrap();
    let path = format!("blocked:\n  path: {}/below/blocked.json\n", directory.path().display());
    let [one, other] = [start(&path), start(&path)];
    one.block(&json!({"id": "17"}));
    other.block(&json!({"id": "18"}));
    for env in [&one, &other] {
        env.wait_for_status("17|one-secret", 401);
        env.wait_for_status("18|two-secret", 401);
    }
    assert_eq!(other.unblock(&json!({"id": "17"})), 1);
    one.wait_for_status("17|one-secret", 200);
    one.wait_for_status("18|two-secret", 401);
}

#[test]
fn another_path_takes_effect_after_a_restart() {
    let mut env = start("");
    env.block(&json!({"id": "17"}));
    env.gateway.edit("path: blocked.json", "path: other.json");
    assert!(env.gateway.reload());
    env.gateway.wait_for_log(|line| line["keys"].as_str().is_some_and(|keys| keys.contains("blocked.path")));
    env.block(&json!({"id": "18"}));
    assert!(!env.gateway.directory().join("other.json").exists());
    env.kill_and_restart();
    assert_eq!(env.statuses(), [200; 5]);
    assert_eq!(env.unblock(&json!({"id": "17"})), 0);
}

/// Another program removes the file, damages it, or restores an older copy while the gateway runs.
#[test]
fn file_that_loses_blocks_is_written_again() {
    let mut env = start("");
    env.block(&json!({"id": "19"}));
    let file = env.gateway.directory().join("blocked.json");
    let older = fs::read_to_string(&file).unwrap();
    env.block(&json!({"id": "17"}));
    env.block(&json!({"id": "99"}));
    env.unblock(&json!({"id": "99"}));
    let whole = fs::read_to_string(&file).unwrap();
    let damages: [(&str, &dyn Fn()); 4] = [
        ("was removed", &|| fs::remove_file(&file).unwrap()),
        ("lacks blocks", &|| fs::write(&file, &older).unwrap()),
        ("cannot be read", &|| fs::write(&file, "{").unwrap()),
        ("cannot be read", &|| fs::write(&file, "").unwrap()),
    ];
    for (what, damage) in damages {
        damage();
        let end = Instant::now() + PATIENCE;
        while fs::read_to_string(&file).ok().as_ref() != Some(&whole) {
            assert!(Instant::now() < end, "{what}: {:?}", fs::read_to_string(&file));
            thread::sleep(Duration::from_millis(50));
        }
        let is_logged = |line: &Value| line["message"].as_str().is_some_and(|it| it.contains(what));
        assert_eq!(env.gateway.wait_for_log(is_logged)["level"], "ERROR", "{what}");
        assert_eq!(env.gateway.metrics().metric("blocked_write_errors_total"), 0.0);
    }
    env.kill_and_restart();
    assert_eq!(env.statuses(), [401, 401, 401, 200, 401]);
}

#[test]
fn block_beside_a_damaged_file_is_kept_with_all_others() {
    let env = start("");
    env.block(&json!({"id": "17"}));
    let file = env.gateway.directory().join("blocked.json");
    fs::write(&file, "{").unwrap();
    env.block(&json!({"id": "18"}));
    assert_eq!(env.status(ITEMS, "17|one-secret"), 401);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("\"17\"") && text.contains("\"18\""), "{text}");
}
