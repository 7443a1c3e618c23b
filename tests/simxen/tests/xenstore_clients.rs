//! The simulated xenstore with the client that the daemon uses. One test only: the socket's path is in the environment
//! of the whole process.

use futures::StreamExt;
use simxen::Host;
use xenstore_rs::tokio::XsTokio;
use xenstore_rs::unix::XsUnix;
use xenstore_rs::{AsyncWatch, AsyncXs, Xs};

#[test]
fn the_real_clients_work() {
    let host = Host::start().unwrap();
    for (name, value) in host.xenstore_environment() {
        // SAFETY: this process has no other thread that reads the environment now, and no other test.
        unsafe { std::env::set_var(name, value) };
    }
    blocking_client(&host);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async_client(&host));
}

fn blocking_client(host: &Host) {
    let client = XsUnix::new().unwrap();
    client.write("/c/a", "1").unwrap();
    client.write("/c/b", "").unwrap();
    assert_eq!(&*client.read("/c/a").unwrap(), "1");
    assert_eq!(&*client.read("/c/b").unwrap(), "");
    let names = client.directory("/c").unwrap();
    assert_eq!(names, ["a".into(), "b".into()]);
    assert_eq!(host.xenstore().read("/c/a").unwrap(), b"1");
    client.rm("/c").unwrap();
    assert_eq!(
        client.read("/c/a").unwrap_err().kind(),
        std::io::ErrorKind::NotFound
    );
}

async fn async_client(host: &Host) {
    let client = XsTokio::new().await.unwrap();
    let mut events = client.watch("backend").await.unwrap();
    assert_eq!(&*events.next().await.unwrap(), "backend");
    let mut domains = client.watch("@introduceDomain").await.unwrap();
    assert_eq!(&*domains.next().await.unwrap(), "@introduceDomain");
    client
        .write("backend/vbd3/1/51712/state", "1")
        .await
        .unwrap();
    assert_eq!(&*events.next().await.unwrap(), "backend/vbd3/1/51712/state");
    let _domain = host.new_domain(1).unwrap();
    assert_eq!(&*domains.next().await.unwrap(), "@introduceDomain");
    assert_eq!(
        &*client.read("/local/domain/1/name").await.unwrap(),
        "guest-1"
    );
    host.xenstore().write("backend/x", b"\xff").unwrap();
    assert_eq!(&*events.next().await.unwrap(), "backend/x");
    assert!(client.read("backend/x").await.is_err());
}
