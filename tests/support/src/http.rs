//! The smallest HTTP server that hands out the files of a folder.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// It ends with the process.
pub struct FileServer {
    port: u16,
    asked: Arc<AtomicUsize>,
}

impl FileServer {
    /// Serves a folder. A path that begins with a number of three digits is answered with that
    /// status.
    pub fn start(folder: &Path) -> FileServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let asked = Arc::new(AtomicUsize::new(0));
        let (folder, count) = (folder.to_owned(), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                let folder = folder.clone();
                std::thread::spawn(move || answer(&folder, stream));
            }
        });
        FileServer { port, asked }
    }

    /// `http://127.0.0.1:PORT/NAME`
    pub fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.port)
    }

    /// Connections so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn answer(folder: &Path, mut stream: TcpStream) {
    let mut lines = BufReader::new(stream.try_clone().expect("its other half")).lines();
    let Some(Ok(first)) = lines.next() else { return };
    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
    let name = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    if let Some(status) = name.get(..3).and_then(|digits| digits.parse::<u16>().ok()) {
        let _ = write!(stream, "HTTP/1.1 {status} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    }
    let path: PathBuf = folder.join(&name);
    let head =
        |length: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    let sent = match std::fs::read(path) {
        Ok(bytes) => stream.write_all(head(bytes.len()).as_bytes()).and_then(|()| stream.write_all(&bytes)),
        Err(_) => {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        }
    };
    // The client may have seen enough.
    let _ = sent;
}
