//! The addresses of the MQTT listener: taken, removed by a reload, and the files of Unix sockets.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tombolo_test_support::{free_tcp_port, wait_for};

use super::Site;
use super::mqtt::{LOCAL, SOCKET, on_socket, site, socket};

fn listen(site: &Site, addresses: &str) -> (i32, String) {
    site.folder.write("conf.d/40-mqtt.toml", format!("[mqtt]\ninsecure-listen = [{addresses}]\n"));
    site.daemon.command(&["reload"])
}

#[test]
fn an_address_that_another_program_has_is_told_by_the_reload_until_it_is_free() {
    let site = on_socket("mqtt-taken");
    let other = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let taken = other.local_addr().expect("an address");
    let place = socket(&site);
    let both = format!("\"unix:{place}\", \"{taken}\"");
    for _ in 0..2 {
        let (status, text) = listen(&site, &both);
        assert!(status == 3 && text.contains(&taken.to_string()), "{status} {text}");
        assert!(text.contains("another program listens there"), "{text}");
        assert!(!text.contains(&place), "the other address is served: {text}");
    }
    // It is tried by the reload, and not some seconds later.
    drop(other);
    let (status, text) = listen(&site, &both);
    assert_eq!(status, 0, "{text}");
    assert!(std::net::TcpStream::connect(taken).is_ok());
    let (status, text) = listen(&site, &format!("\"unix:{place}\""));
    assert_eq!(status, 0, "{text}");
    wait_for("the end of the listener", || std::net::TcpStream::connect(taken).is_err());
}

#[test]
fn the_file_of_a_unix_socket_is_the_gateways_while_it_listens_and_no_longer() {
    let mut site = on_socket("mqtt-socket-file");
    let path = PathBuf::from(socket(&site));
    let mode = std::fs::metadata(&path).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    // A reload that takes it out removes it.
    let (status, text) = listen(&site, &format!("\"127.0.0.1:{}\"", free_tcp_port()));
    assert_eq!(status, 0, "{text}");
    wait_for("the end of the socket", || !path.exists());
    let (status, text) = listen(&site, &format!("\"unix:{}\"", path.display()));
    assert!(status == 0 && path.exists(), "{status} {text}");
    site.daemon.stop();
    assert!(!path.exists(), "a stop removes it");
    // That of a process that was killed is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    site.daemon.resume();
    wait_for("the socket", || std::os::unix::net::UnixStream::connect(&path).is_ok());
    // What took its place is not the gateway's.
    std::fs::remove_file(&path).expect("it is there");
    std::fs::write(&path, "mine").expect("a file");
    site.daemon.stop();
    assert!(path.exists());
    // One that another program listens on is left to it.
    std::fs::remove_file(&path).expect("it is there");
    let _other = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    site.daemon.spawn();
    wait_for("the problem", || site.daemon.log().contains("another program listens there"));
    site.daemon.stop();
    assert!(path.exists());
}

#[test]
fn a_unix_socket_whose_file_is_taken_away_is_opened_anew_and_named_while_it_cannot_be() {
    let site = site("mqtt-socket-lost", |_, _| format!("{SOCKET}{LOCAL}"));
    let path = PathBuf::from(socket(&site));
    let _client = Client::new(&["--unix", &path.display().to_string()], "stays");
    let clients = || site.daemon.status()["mqtt"]["clients"].as_u64();
    wait_for("the client", || clients() == Some(1));
    std::fs::remove_file(&path).expect("it is there");
    let (status, text) = site.daemon.command(&["reload"]);
    assert!(status == 0 && std::os::unix::net::UnixStream::connect(&path).is_ok(), "{status} {text}");
    std::fs::remove_file(&path).expect("it is there");
    std::fs::write(&path, "mine").expect("a file");
    let (status, text) = site.daemon.command(&["reload"]);
    assert!(status == 3 && text.contains("what is there is no socket"), "{status} {text}");
    assert!(site.daemon.command(&["status"]).1.contains("what is there is no socket"));
    // Without a reload, too.
    std::fs::remove_file(&path).expect("it is there");
    wait_for("the socket", || std::os::unix::net::UnixStream::connect(&path).is_ok());
    std::fs::remove_file(&path).expect("it is there");
    wait_for("the socket again", || std::os::unix::net::UnixStream::connect(&path).is_ok());
    assert_eq!(clients(), Some(1), "connections go on");
}

/// A subscriber of mosquitto's; ended with the test.
struct Client(Child);

impl Client {
    fn new(target: &[&str], id: &str) -> Client {
        let mut command = Command::new("mosquitto_sub");
        command.args(target).args(["-u", "pump-2", "-P", "sesame-sesame", "-V", "mqttv5", "-i", id]);
        command.args(["-t", "home/#"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Client(command.spawn().expect("mosquitto-clients is installed"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn connections_end_with_the_address_that_a_reload_removes_and_those_of_others_stay() {
    let port = free_tcp_port();
    let site = site("mqtt-removed", |_, _| {
        format!("[mqtt]\ninsecure-listen = [\"unix:mqtt.sock\", \"127.0.0.1:{port}\"]\n{LOCAL}")
    });
    wait_for("both addresses", || site.daemon.log().matches("listening for MQTT").count() == 2);
    let (path, port_text) = (socket(&site), port.to_string());
    let _clients = [
        Client::new(&["--unix", &path], "stays"),
        Client::new(&["-h", "127.0.0.1", "-p", &port_text], "goes"),
    ];
    let clients = || site.daemon.status()["mqtt"]["clients"].as_u64();
    wait_for("both clients", || clients() == Some(2));
    let (status, text) = listen(&site, &format!("\"unix:{path}\""));
    assert_eq!(status, 0, "{text}");
    wait_for("the end of one", || clients() == Some(1));
    // One of the other address would have come again by it.
    let accepted = &site.daemon.status()["counters"]["tombolo_mqtt_accepted_connects_total"];
    assert_eq!(accepted.as_u64(), Some(2));
}
