//! Profiles of a running process, read by Go's own tool.

use std::process::{Command, Stdio};

use seckill::config::Mode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::{Answer, call};
use crate::harness::process::Process;
use crate::harness::{API_KEY, READ_ONLY_KEY, TestShop, temporary};

async fn profile(process: &Process, key: &str, query: &str) -> Answer {
    let bearer = format!("Bearer {key}");
    let path = format!("/debug/pprof/profile?{query}");
    call(process.admin, "GET", &path, &[("Authorization", bearer.as_str())], "").await
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
}

/// Takes a profile, and answers its bytes. The client of the tests reads text.
async fn bytes(process: &Process, query: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(process.admin).await.expect("connected");
    let request = format!(
        "GET /debug/pprof/profile?{query} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {API_KEY}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n").expect("a head");
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    answer.split_off(head + 4)
}

/// Has the process do something for as long as a profile takes.
async fn work(process: &Process) {
    loop {
        let _ = call(process.shopper, "GET", "/api/v1/sales", &[], "").await;
    }
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_profile_is_opened_by_go_and_refused_without_scope_or_switch() {
    let shop = TestShop::start(Mode::Distributed).await;
    let off = Process::start(&shop.config, "api", &[]).await;
    let refused = profile(&off, API_KEY, "seconds=1").await;
    assert_eq!(code(&refused), (409, "state_conflict".to_owned()));
    assert!(refused.text.contains("debug.profiles"), "{refused:?}");
    drop(off);

    let front = Process::start(&shop.config, "api", &[("DEBUG__PROFILES", "true")]).await;
    assert_eq!(code(&profile(&front, READ_ONLY_KEY, "seconds=1").await), (403, "forbidden".to_owned()));
    for query in ["seconds=0", "seconds=61", "seconds=x", "format=gif", "other=1"] {
        assert_eq!(
            code(&profile(&front, API_KEY, query).await),
            (400, "validation_failed".to_owned()),
            "{query}"
        );
    }
    let (taken, second) = tokio::select! {
        both = async {
            tokio::join!(bytes(&front, "seconds=3"), async {
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                profile(&front, API_KEY, "seconds=1").await
            })
        } => both,
        () = work(&front) => unreachable!("it has no end"),
    };
    assert_eq!(code(&second), (409, "state_conflict".to_owned()));
    let file = temporary(&format!("profile-{}", front.admin.port()));
    std::fs::write(&file, &taken).expect("written");
    let go = ["go", "/usr/local/go/bin/go"].into_iter().find(|go| {
        Command::new(go).arg("version").stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    });
    let go = go.expect("go, version 1.24 or later, is missing");
    let shown = Command::new(go)
        .args(["tool", "pprof", "-top", "-nodecount=400"])
        .arg(&file)
        .output()
        .expect("it runs");
    let (text, talk) = (String::from_utf8_lossy(&shown.stdout), String::from_utf8_lossy(&shown.stderr));
    assert!(shown.status.success() && text.contains("actix"), "functions have names: {text}{talk}");
    std::fs::remove_file(&file).expect("removed");

    let graph = tokio::select! {
        graph = profile(&front, API_KEY, "seconds=1&format=svg") => graph,
        () = work(&front) => unreachable!("it has no end"),
    };
    assert!(graph.status == 200 && graph.text.contains("<svg"), "{:?}", graph.text.get(..200));
    drop(front);
    shop.finish().await;
}
