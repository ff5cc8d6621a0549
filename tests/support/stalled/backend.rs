//! A backend that stalls.

use super::*;

/// A backend that sends an endless response, or reads no body.
pub(super) struct Backend {
    pub(super) yaml: String,
    stopped: Arc<AtomicBool>,
    sockets: Arc<Mutex<Vec<TcpStream>>>,
    /// The HTTP/2 runtime, which ends when dropped.
    _running: Option<oneshot::Sender<()>>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        for socket in self.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Backend {
    pub(super) fn start(kind: BackendKind, authority: &Authority) -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // Accepted connections inherit these options.
        listener.set_recv_buffer_size(SOCKET_BUFFER).unwrap();
        listener.set_tcp_mss(SEGMENT).unwrap();
        listener.set_linger(Some(Duration::ZERO)).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(4096).unwrap();
        let listener = TcpListener::from(listener);
        let address = listener.local_addr().unwrap();
        let (stopped, sockets) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<_>>>::default());
        let mut running = None;
        let mut yaml = match kind {
            BackendKind::Plain => format!("backend:\n  url: http://{address}\n"),
            BackendKind::Http2 => format!("backend:\n  url: http://{address}\n  http2: true\n"),
            BackendKind::Tls => {
                let (port, file) = (address.port(), authority.ca_file());
                let file = file.display();
                format!("backend:\n  url: https://localhost:{port}\n  tls: {{ca_file: {file}}}\n")
            }
        };
        yaml += "  timeout: 10m\n";
        if kind == BackendKind::Http2 {
            let (stop, stopped) = oneshot::channel();
            running = Some(stop);
            thread::spawn(move || serve_http2(listener, stopped));
        } else {
            let config = (kind == BackendKind::Tls).then(|| authority.server());
            let (stopped, sockets) = (Arc::clone(&stopped), Arc::clone(&sockets));
            thread::spawn(move || {
                while let Ok((socket, _)) = listener.accept() {
                    if stopped.load(Ordering::SeqCst) {
                        return;
                    }
                    sockets.lock().unwrap().push(socket.try_clone().unwrap());
                    let (stopped, config) = (Arc::clone(&stopped), config.clone());
                    let serve = move || drop(serve_http1(socket, config, &stopped));
                    thread::Builder::new().stack_size(128 * 1024).spawn(serve).unwrap();
                }
            });
        }
        Self { yaml, stopped, sockets, _running: running }
    }
}

fn serve_http1(socket: TcpStream, config: Option<Arc<ServerConfig>>, stopped: &AtomicBool) -> io::Result<()> {
    const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let stream: Box<dyn Stream> = match config {
        Some(config) => {
            let session = ServerConnection::new(config).map_err(io::Error::other)?;
            Box::new(StreamOwned::new(session, socket))
        }
        None => Box::new(socket),
    };
    // Reads one byte at a time, so that everything after the head stays in the kernel.
    let mut stream = BufReader::with_capacity(1, stream);
    let data = vec![b'd'; 64 * 1024];
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
        while line != "\r\n" {
            line.clear();
            if stream.read_line(&mut line)? == 0 {
                return Ok(());
            }
        }
        let out = stream.get_mut();
        let head = match &*target {
            "/down" => "HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n",
            "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "/close" => "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
            "/tunnel-down" | "/tunnel-up" => SWITCHED,
            "/large" => "HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n",
            "/nine" => "HTTP/1.1 200 OK\r\nContent-Length: 9216\r\n\r\n",
            "/up" => "",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        };
        out.write_all(head.as_bytes())?;
        out.flush()?;
        match &*target {
            "/up" | "/tunnel-up" => {
                while !stopped.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(50));
                }
            }
            "/down" | "/close" | "/tunnel-down" => loop {
                out.write_all(&data)?;
            },
            "/chunked" => loop {
                out.write_all(b"2000\r\n")?;
                out.write_all(&data[..0x2000])?;
                out.write_all(b"\r\n")?;
            },
            "/nine" => out.write_all(&data[..9216])?,
            "/large" => {
                for _ in 0..16 {
                    out.write_all(&data)?;
                }
            }
            _ => {}
        }
        out.flush()?;
    }
}

fn serve_http2(listener: TcpListener, stopped: oneshot::Receiver<()>) {
    listener.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let accept = async {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut builder = h2::server::Builder::new();
                    builder.initial_window_size(1 << 20).initial_connection_window_size(16 << 20);
                    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
                    while let Some(Ok((request, mut answer))) = connection.accept().await {
                        tokio::spawn(async move {
                            if request.uri().path() == "/up" {
                                // Accepted, and its body is never read.
                                let _ = std::future::poll_fn(|context| answer.poll_reset(context)).await;
                                return;
                            }
                            let head = http::Response::new(());
                            let Ok(mut stream) = answer.send_response(head, false) else { return };
                            loop {
                                stream.reserve_capacity(16 * 1024);
                                let capacity = std::future::poll_fn(|context| stream.poll_capacity(context));
                                let Some(Ok(capacity)) = capacity.await else { return };
                                let data = Bytes::from_static(&[b'd'; 16 * 1024]);
                                let data = data.slice(..capacity.min(16 * 1024));
                                if stream.send_data(data, false).is_err() {
                                    return;
                                }
                            }
                        });
                    }
                });
            }
        };
        tokio::select! { () = accept => {} _ = stopped => {} }
    });
}
