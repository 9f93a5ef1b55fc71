//! Tests of the control socket with clients that are well-behaved, slow or hostile.

use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::time::Duration;

use super::super::group_socket::GroupSocket;
use super::*;

/// A server whose every request is answered by `answer`.
fn start(
    answer: impl Fn(&Request) -> Result<Reply, ApiError> + 'static,
) -> (tempfile::TempDir, PathBuf) {
    let (dir, path, _) = start_counted(answer);
    (dir, path)
}

/// The same, with what it counts.
fn start_counted(
    answer: impl Fn(&Request) -> Result<Reply, ApiError> + 'static,
) -> (tempfile::TempDir, PathBuf, Arc<ClientCounts>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let counts = Arc::new(ClientCounts::default());
    let server = Server::bind(&path, Arc::clone(&counts)).unwrap();
    let (calls, mut called) = mpsc::channel::<Call>(1);
    tokio::task::spawn_local(server.serve(calls));
    tokio::task::spawn_local(async move {
        while let Some(call) = called.recv().await {
            let _ = call.reply.send(answer(&call.request));
        }
    });
    (dir, path, counts)
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

fn echo(request: &Request) -> Result<Reply, ApiError> {
    Ok(Reply::Value(json!(request)))
}

async fn exchange(path: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

fn code(answer: &str) -> ErrorCode {
    code_of(answer).unwrap_or_else(|| panic!("{answer}"))
}

/// The code of an answer, if it is an error.
fn code_of(answer: &str) -> Option<ErrorCode> {
    match Answer::parse(answer.trim_end()).unwrap() {
        Answer::Error(error) => Some(error.code),
        _ => None,
    }
}

#[test]
fn the_socket_belongs_to_its_owner_only_and_goes_with_the_server() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let server = Server::bind(&path, Arc::default()).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        drop(server);
        assert!(!path.exists());
        // Files of others are left alone.
        let server = Server::bind(&path, Arc::default()).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(server);
        let error = format!("{:#}", Server::bind(&path, Arc::default()).unwrap_err());
        assert!(error.contains("(--control-socket") && path.exists(), "{error}");
    });
}

#[test]
fn members_of_the_group_may_read_and_change_nothing() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("read.sock");
        let group = nix::unistd::Group::from_gid(nix::unistd::getegid()).unwrap().unwrap();
        let socket = GroupSocket::bind(&path, &group.name).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let (calls, mut called) = mpsc::channel::<Call>(1);
        socket.serve(calls, Arc::default()).unwrap();
        tokio::task::spawn_local(async move {
            while let Some(call) = called.recv().await {
                let _ = call.reply.send(echo(&call.request));
            }
        });
        let remove = Request::EndpointRemove { link: "veth0".into() };
        assert_eq!(code(&exchange(&path, remove.to_line().as_bytes()).await), ErrorCode::ReadOnly);
        let clean = Request::FqdnClean { pattern: None };
        assert_eq!(code(&exchange(&path, clean.to_line().as_bytes()).await), ErrorCode::ReadOnly);
        let status = exchange(&path, Request::Status {}.to_line().as_bytes()).await;
        assert!(matches!(Answer::parse(status.trim_end()), Ok(Answer::Result(_))), "{status}");
        drop(socket);
        assert!(!path.exists());
        // Files of others are left alone.
        std::fs::write(&path, "").unwrap();
        assert!(GroupSocket::bind(&path, &group.name).is_err() && path.exists());
        assert!(GroupSocket::bind(&path, "no such group").is_err());
    });
}

#[test]
fn several_requests_pass_over_one_connection() {
    run(async {
        let (_dir, path) = start(echo);
        let lines = Request::Status {}.to_line() + &Request::EndpointList {}.to_line();
        let answer = exchange(&path, lines.as_bytes()).await;
        let commands: Vec<_> = answer
            .lines()
            .map(|line| match Answer::parse(line).unwrap() {
                Answer::Result(value) => value["command"].clone(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(commands, ["status", "endpoint-list"]);
    });
}

#[test]
fn garbage_is_rejected_and_the_connection_stays_open() {
    run(async {
        let (_dir, path) = start(echo);
        let mut bytes = b"\xff\x00{{\n\n[1]\n".to_vec();
        bytes.extend(Request::Status {}.to_line().into_bytes());
        let answer = exchange(&path, &bytes).await;
        let answers: Vec<_> = answer.lines().map(|line| Answer::parse(line).unwrap()).collect();
        assert_eq!(answers.len(), 4);
        assert!(answers[..3].iter().all(|answer| matches!(answer, Answer::Error(_))));
        assert!(matches!(answers[3], Answer::Result(_)));
    });
}

#[test]
fn a_line_that_is_too_long_is_rejected_and_the_connection_closed() {
    run(async {
        let (_dir, path) = start(echo);
        let answer = exchange(&path, &vec![b'x'; 3 * REQUEST_MAX]).await;
        assert_eq!(answer.lines().count(), 1);
        assert_eq!(code(&answer), ErrorCode::TooLong);
    });
}

#[test]
fn half_a_line_is_no_request() {
    run(async {
        let (_dir, path) = start(|_| panic!("half a request was carried out"));
        let line = Request::EndpointRemove { link: "veth0".into() }.to_line();
        let answer = exchange(&path, line.trim_end().as_bytes()).await;
        assert_eq!(answer, "");
    });
}

#[test]
fn clients_beyond_the_limit_are_turned_away_and_places_are_given_back() {
    run(async {
        let (_dir, path) = start(echo);
        let mut idle = Vec::new();
        for _ in 0..LIMITS.connections {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(Request::Status {}.to_line().as_bytes()).await.unwrap();
            let mut answer = [0];
            stream.read_exact(&mut answer).await.unwrap();
            idle.push(stream);
        }
        assert_eq!(code(&exchange(&path, b"").await), ErrorCode::Busy);
        drop(idle);
        let line = Request::Status {}.to_line();
        while Answer::parse(exchange(&path, line.as_bytes()).await.trim_end())
            .is_ok_and(|answer| matches!(answer, Answer::Error(_)))
        {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn clients_that_send_no_request_keep_no_command_out() {
    run(async {
        let (_dir, path, counts) = start_counted(echo);
        let mut silent = Vec::new();
        for _ in 0..LIMITS.connections {
            silent.push(UnixStream::connect(&path).await.unwrap());
        }
        let line = Request::Status {}.to_line();
        // Until they have been silent for some time.
        let mut before = counts.rejected();
        while code_of(&exchange(&path, line.as_bytes()).await) == Some(ErrorCode::Busy) {
            before = counts.rejected();
        }
        // The oldest one has lost its place, and gets an answer that says so.
        let mut answer = String::new();
        silent[0].read_to_string(&mut answer).await.unwrap();
        assert_eq!((code(&answer), counts.rejected()), (ErrorCode::Busy, before + 1));
        // The others were not disconnected for their silence.
        for stream in &mut silent[1..] {
            stream.write_all(line.as_bytes()).await.unwrap();
            let answer = BufReader::new(stream).lines().next_line().await.unwrap().unwrap();
            assert!(matches!(Answer::parse(&answer), Ok(Answer::Result(_))), "{answer}");
        }
    });
}

/// Items that the client asked to begin with.
fn past(count: usize) -> Vec<Arc<Observed>> {
    std::iter::repeat_n(lost(7), count).collect()
}

/// An item of the flow log.
fn lost(count: u64) -> Arc<Observed> {
    let time = jiff::Timestamp::UNIX_EPOCH;
    Arc::new(Observed { number: 0, time, item: FlowItem::Lost(count) })
}

/// Follows flows and reads nothing.
async fn follow(path: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(path).await.unwrap();
    let line = Request::Flows { follow: true, last: 0 }.to_line();
    stream.write_all(line.as_bytes()).await.unwrap();
    stream
}

#[test]
fn followers_leave_places_to_commands() {
    run(async {
        let (sender, _) = broadcast::channel(4);
        let publisher = sender.clone();
        let (_dir, path, counts) = start_counted(move |request| match request {
            Request::Flows { .. } => {
                let live = Some(sender.subscribe());
                Ok(Reply::Flows { past: Vec::new(), live })
            }
            other => Ok(Reply::Value(json!(other))),
        });
        let mut followers = Vec::new();
        for _ in 0..LONG_RUNNING_MAX {
            followers.push(follow(&path).await);
        }
        while publisher.receiver_count() < LONG_RUNNING_MAX {
            tokio::task::yield_now().await;
        }
        // One more is rejected with a reason, and commands are carried out.
        let mut rejected = BufReader::new(follow(&path).await).lines();
        assert_eq!(code(&rejected.next_line().await.unwrap().unwrap()), ErrorCode::Busy);
        assert_eq!(counts.rejected(), 1);
        for _ in LONG_RUNNING_MAX..LIMITS.connections {
            let line = Request::EndpointRemove { link: "veth0".into() }.to_line();
            let answer = exchange(&path, line.as_bytes()).await;
            assert!(matches!(Answer::parse(answer.trim_end()), Ok(Answer::Result(_))));
        }
        // A place is free again when its follower leaves.
        followers.pop();
        while publisher.receiver_count() >= LONG_RUNNING_MAX {
            tokio::task::yield_now().await;
        }
        followers.push(follow(&path).await);
        while publisher.receiver_count() < LONG_RUNNING_MAX {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_client_that_does_not_read_is_disconnected_and_counted() {
    run(async {
        // Time passes by itself while everybody waits.
        tokio::time::pause();
        let (_dir, path, counts) = start_counted(|_| {
            // More than any socket's buffer holds.
            Ok(Reply::Flows { past: past(100_000), live: None })
        });
        let mut stream = follow(&path).await;
        while counts.disconnected() == 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        // What was sent before can still be read; then the connection ends.
        let mut read = String::new();
        stream.read_to_string(&mut read).await.unwrap();
        let sent = read.lines().count();
        assert!(sent > 1 && sent < 100_000, "{sent} lines");
    });
}

#[test]
fn a_client_that_reads_slowly_is_not_disconnected() {
    run(async {
        tokio::time::pause();
        let (_dir, path, counts) =
            start_counted(|_| Ok(Reply::Flows { past: past(20_000), live: None }));
        let mut stream = follow(&path).await;
        let (mut read, mut part) = (Vec::new(), [0; 16 * 1024]);
        while !read.ends_with(Answer::End(true).to_line().as_bytes()) {
            tokio::time::sleep(LIMITS.silence / 2).await;
            let n = stream.read(&mut part).await.unwrap();
            assert!(n > 0, "disconnected");
            read.extend(&part[..n]);
        }
        assert_eq!(counts.disconnected(), 0);
    });
}

#[test]
fn a_follower_that_lags_is_told_how_much_it_lost() {
    run(async {
        let (sender, _) = broadcast::channel(4);
        let publisher = sender.clone();
        let (_dir, path) = start(move |_| {
            let live = Some(sender.subscribe());
            // Overflows the channel before the follower's task runs again.
            for _ in 0..10 {
                sender.send(lost(0)).unwrap();
            }
            Ok(Reply::Flows { past: Vec::new(), live })
        });
        let mut stream = UnixStream::connect(&path).await.unwrap();
        let line = Request::Flows { follow: true, last: 0 }.to_line();
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let first = lines.next_line().await.unwrap().unwrap();
        assert_eq!(Answer::parse(&first), Ok(Answer::Item(json!(FlowItem::Lost(6)))));
        for _ in 0..4 {
            let line = lines.next_line().await.unwrap().unwrap();
            assert_eq!(Answer::parse(&line), Ok(Answer::Item(json!(FlowItem::Lost(0)))));
        }
        drop(lines);
        // Its receiver goes with it.
        while publisher.receiver_count() > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_client_that_waits_and_disconnects_gives_its_place_back() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let server = Server::bind(&path, Arc::default()).unwrap();
        let (calls, mut called) = mpsc::channel::<Call>(1);
        tokio::task::spawn_local(server.serve(calls));
        let line = Request::PolicyWait { epoch: 7, timeout_s: 3600 }.to_line();
        // More clients than the limit, one after another; none of them is answered.
        let mut replies = Vec::new();
        for _ in 0..=LONG_RUNNING_MAX {
            let mut client = UnixStream::connect(&path).await.unwrap();
            client.write_all(line.as_bytes()).await.unwrap();
            let mut call = called.recv().await.unwrap();
            drop(client);
            call.reply.closed().await;
            replies.push(call.reply);
        }
        // A client that stays gets its answer, whatever it sends meanwhile.
        let mut client = UnixStream::connect(&path).await.unwrap();
        client.write_all(line.repeat(2).as_bytes()).await.unwrap();
        let call = called.recv().await.unwrap();
        call.reply.send(Ok(Reply::Value(json!(7)))).unwrap();
        let mut answers = BufReader::new(client).lines();
        let answer = answers.next_line().await.unwrap().unwrap();
        assert!(matches!(Answer::parse(&answer), Ok(Answer::Result(_))), "{answer}");
    });
}
