//! A disk that takes the log and no tables: writes go on while memory has room, then everybody is told what fails, where, and
//! what to do; and all goes on by itself when tables can be written again.

use std::time::{Duration, Instant};

use rustix::io::Errno;
use seawall_disks::fuse::{Effect, Fault, FuseDisk, Operation, PowerLoss};

use crate::PATIENCE;
use crate::node::{Node, json, ok, seawall};

#[test]
fn who_writes_while_no_table_can_be_written_is_told_why_and_goes_on_by_itself_when_one_can() {
    const ROOM: u64 = 1 << 40;
    let Some(disk) = FuseDisk::or_skip() else { return };
    // A node lets nobody in long before its disk is full.
    disk.set_capacity(ROOM);
    let data = disk.path().join("data");
    let arguments = ["--set", "engine.memtable_size=64KiB"];
    let answers = [
        (Errno::ROFS, "Read-only file system", "mount it read-write"),
        (Errno::IO, "Input/output error", "what is wrong with the disk"),
    ];
    let mut put = 0;
    for (errno, said, advised) in answers {
        let node = Node::start(&data, None, &arguments);
        let fault = Fault::always(&[Operation::Create], Effect::Fail(errno.raw_os_error()));
        disk.inject(Fault { path: "/tables/".into(), ..fault });
        let value = "v".repeat(30_000);
        let key = |number: u32| format!("key-{number:04}");
        let mut write = || {
            let put_one = ["put", &key(put), &value, "--url", &node.url, "--json"];
            let output = seawall(&put_one).output().unwrap();
            put += u32::from(output.status.success());
            (!output.status.success()).then(|| String::from_utf8(output.stderr).unwrap())
        };
        let told = (0..200).find_map(|_| write()).expect("memory is bounded");
        let error: serde_json::Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
        let (kind, message, hint) = (&error["kind"], error["message"].to_string(), error["hint"].to_string());
        assert_eq!(kind, "disk_failing", "{errno}: {message}");
        assert!(message.contains("writing memtables out") && message.contains("/data/tables/"), "{errno}: {message}");
        assert!(message.contains(said) && hint.contains(advised), "{errno}: {message}: {hint}");
        // Everywhere an operator looks.
        let status = json(&["status", "--url", &node.url])["status"].clone();
        assert!(status["writes_refused"].to_string().contains(said), "{status}");
        assert!(status["background_failures"][0].to_string().contains(said), "{status}");
        let text = ok(&["status", "--url", &node.url]);
        assert!(text.contains("writes:    stand still") && text.contains(said), "{text}");
        let (code, ready) = node.get("/readyz");
        assert!(code == 503 && ready.contains("writes stand still") && ready.contains(said), "{code}: {ready}");
        assert_eq!(node.get("/healthz").0, 200, "it has not failed, and a restart would not help");
        let metrics = node.get("/metrics").1;
        for line in ["seawall_writes_refused 1", "seawall_background_failures 1", "seawall_disk_full 0"] {
            assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
        }
        assert_eq!(ok(&["get", &key(0), "--url", &node.url]), value, "reads go on");

        disk.heal();
        let until = Instant::now() + PATIENCE;
        while let Some(told) = write() {
            assert!(told.contains("disk_failing") && Instant::now() < until, "{errno}: {told}");
            std::thread::sleep(Duration::from_millis(20));
        }
        (0..10).for_each(|_| assert_eq!(write(), None));
        while node.get("/readyz").0 != 200 {
            assert!(Instant::now() < until, "it is ready again");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(node.get("/metrics").1.lines().any(|line| line == "seawall_background_failures 0"));
        drop(node);
        // Killed, and the power goes: what was acknowledged is there, and what was refused is not.
        disk.lose_power(PowerLoss::NothingKept);
        let node = Node::start(&data, None, &arguments);
        let page = json(&["scan", "--keys-only", "--limit", "1000", "--url", &node.url]);
        let keys: Vec<String> = (0..put).map(key).collect();
        let found = page["entries"].as_array().unwrap().iter().map(|entry| entry["key"].as_str().unwrap());
        assert!(found.eq(keys.iter().map(String::as_str)), "{errno}: {} keys were acknowledged: {page}", keys.len());
        node.stop();
    }
    println!("{put} values acknowledged while tables could not be written, and after, 0 lost");
}
