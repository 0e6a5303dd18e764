use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use gitstead::{
    base::{Fault, Limits, RepoName, Rules, SystemClock, Version},
    service::{Context, DumbFile, Service},
    web::{self, Doors, Drain, Failure, Hands, House, Options, Served},
    worker::Workers,
};
use tokio::{net::TcpListener, runtime::Runtime, sync::oneshot, task::JoinHandle};

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

type Script = dyn Fn(&Context<'_>, &mut dyn Read, &mut dyn Write) -> Result<(), Failure> + Send + Sync;

/// A repository that does what a test says.
#[derive(Clone)]
pub struct Fake {
    pub doors: Doors,
    pub script: Arc<Script>,
    pub files: HashMap<String, DumbFile>,
}

impl Default for Fake {
    /// Answers with a description of the request.
    fn default() -> Self {
        Fake::new(|context, body, out| {
            let mut all = Vec::new();
            body.read_to_end(&mut all).map_err(failure)?;
            let user = context.user.unwrap_or("-");
            write!(out, "user={user} addr={} len={} ", context.remote_addr, all.len()).map_err(failure)?;
            out.write_all(all.get(..100).unwrap_or(&all)).map_err(failure)
        })
    }
}

impl Fake {
    pub fn new(
        script: impl Fn(&Context<'_>, &mut dyn Read, &mut dyn Write) -> Result<(), Failure> + Send + Sync + 'static,
    ) -> Self {
        Fake {
            doors: Doors::default(),
            script: Arc::new(script),
            files: HashMap::new(),
        }
    }

    pub fn push(mut self, setting: Option<bool>) -> Self {
        self.doors.receive_pack = setting;
        self
    }

    pub fn file(mut self, relative: &str, path: PathBuf, cache_forever: bool) -> Self {
        let file = DumbFile {
            path,
            content_type: "application/x-test",
            cache_forever,
        };
        self.files.insert(relative.to_owned(), file);
        self
    }
}

pub fn failure(error: io::Error) -> Failure {
    Failure {
        fault: Fault::Ours,
        public: "internal server error".into(),
        source: Some(Box::new(error)),
    }
}

impl Served for Fake {
    fn doors(&self) -> Doors {
        self.doors
    }
    fn advertise(
        &self,
        service: Service,
        version: Version,
        _: &Context<'_>,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        write!(out, "advertisement {service:?} {version:?}").map_err(failure)
    }
    fn upload_pack(
        &self,
        _: Version,
        context: &Context<'_>,
        body: &mut dyn Read,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        (self.script)(context, body, out)
    }
    fn receive_pack(&self, context: &Context<'_>, body: &mut dyn Read, out: &mut dyn Write) -> Result<(), Failure> {
        (self.script)(context, body, out)
    }
    fn info_refs(&self, _: &Context<'_>, out: &mut dyn Write) -> Result<(), Failure> {
        out.write_all(b"refs\n").map_err(failure)
    }
    fn info_packs(&self, out: &mut dyn Write) -> Result<(), Failure> {
        out.write_all(b"\n").map_err(failure)
    }
    fn file(&self, _: &Context<'_>, relative: &str) -> Result<Option<DumbFile>, Failure> {
        Ok(self.files.get(relative).cloned())
    }
}

/// Repositories by name, and what was done to them.
#[derive(Default)]
pub struct FakeHands {
    pub repos: Mutex<HashMap<String, Fake>>,
    pub asked: Mutex<Vec<String>>,
    pub created: Mutex<Vec<String>>,
    pub discarded: Mutex<Vec<String>>,
}

impl Hands for FakeHands {
    fn find(&self, name: &RepoName) -> Result<Option<Arc<dyn Served>>, Failure> {
        self.asked.lock().unwrap().push(name.to_string());
        let found = self.repos.lock().unwrap().get(name.stem()).cloned();
        Ok(found.map(|fake| Arc::new(fake) as Arc<dyn Served>))
    }
    fn create(&self, name: &RepoName) -> Result<(Arc<dyn Served>, bool), Failure> {
        self.created.lock().unwrap().push(name.to_string());
        Ok((Arc::new(Fake::default()), true))
    }
    fn discard_if_empty(&self, name: &RepoName) -> Result<(), Failure> {
        self.discarded.lock().unwrap().push(name.to_string());
        Ok(())
    }
    fn blank(&self) -> Result<Arc<dyn Served>, Failure> {
        Ok(Arc::new(Fake::default()))
    }
}

/// How a test wants its face.
pub struct Setup {
    pub limits: Limits,
    pub rules: Rules,
    pub options: Options,
    pub repos: Vec<(&'static str, Fake)>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            limits: Limits::default(),
            rules: Rules::default(),
            options: Options {
                url_prefix: "/repos".into(),
                create_on_push: true,
                ..Options::default()
            },
            repos: vec![("a", Fake::default())],
        }
    }
}

/// A face that listens.
pub struct Face {
    pub hands: Arc<FakeHands>,
    pub house: Arc<House>,
    pub address: SocketAddr,
    runtime: Option<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<Drain>>,
}

impl Face {
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Setup)) -> Self {
        let mut setup = Setup::default();
        change(&mut setup);
        let hands = Arc::new(FakeHands::default());
        for (name, fake) in setup.repos {
            hands.repos.lock().unwrap().insert(name.to_owned(), fake);
        }
        let workers = Workers::start(&setup.limits).unwrap();
        let house = House::new(
            Arc::clone(&hands) as Arc<dyn Hands>,
            setup.rules,
            setup.limits.clone(),
            setup.options,
            workers,
            Arc::new(SystemClock),
        );
        let house = Arc::new(house.unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let router = web::router(Arc::clone(&house));
        let served = runtime.spawn(async move {
            web::serve(listener, router, &setup.limits, async {
                let _ = stopped.await;
            })
            .await
        });
        Face {
            hands,
            house,
            address,
            runtime: Some(runtime),
            stop: Some(stop),
            served: Some(served),
        }
    }

    pub fn connect(&self) -> Client {
        Client::new(self.address)
    }

    /// One request on a connection of its own.
    pub fn send(&self, request: impl AsRef<[u8]>) -> Response {
        let mut client = self.connect();
        client.send(request);
        client.response()
    }

    pub fn get(&self, target: &str) -> Response {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    pub fn post(&self, target: &str, headers: &str, body: &[u8]) -> Response {
        self.send(post(target, headers, body))
    }

    /// Begins the shutdown.
    pub fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits for the end of the shutdown.
    pub fn drained(&mut self) -> Drain {
        let served = self.served.take().unwrap();
        self.runtime.as_ref().unwrap().block_on(served).unwrap()
    }
}

impl Drop for Face {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A POST with the right type for its path.
pub fn post(target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let service = target.rsplit('/').next().unwrap_or_default();
    let mut request = format!(
        "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-{service}-request\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

pub struct Client {
    stream: BufReader<TcpStream>,
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body came to the end its framing announces.
    pub whole: bool,
}

impl Response {
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
            .collect()
    }
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Client {
            stream: BufReader::new(stream),
        }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// [`send`](Self::send) to a server that may have had enough.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    pub fn finish_sending(&mut self) {
        self.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    }

    pub fn raw(&mut self) -> &mut TcpStream {
        self.stream.get_mut()
    }

    pub fn response(&mut self) -> Response {
        self.try_response().expect("a response")
    }

    /// The response to a HEAD request.
    pub fn head_response(&mut self) -> Response {
        self.head().expect("a head")
    }

    /// `None` if the connection ends before there is a head.
    pub fn try_response(&mut self) -> Option<Response> {
        let mut response = self.head()?;
        let length = response
            .header("content-length")
            .map(|text| text.parse::<usize>().unwrap());
        if response.header("transfer-encoding") == Some("chunked") {
            response.whole = self.chunks(&mut response.body).is_some();
        } else if let Some(length) = length {
            response.body = vec![0; length];
            response.whole = self.stream.read_exact(&mut response.body).is_ok();
        } else {
            response.whole = self.stream.read_to_end(&mut response.body).is_ok();
        }
        Some(response)
    }

    fn head(&mut self) -> Option<Response> {
        let first = self.line()?;
        let mut words = first.splitn(3, ' ');
        assert!(words.next().unwrap_or_default().starts_with("HTTP/1."), "{first:?}");
        let status = words
            .next()
            .unwrap_or_default()
            .parse()
            .unwrap_or_else(|_| panic!("{first:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("{line:?}"));
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        Some(Response {
            status,
            headers,
            body: Vec::new(),
            whole: true,
        })
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> Option<()> {
        loop {
            let size = usize::from_str_radix(&self.line()?, 16).ok()?;
            let at = body.len();
            body.resize(at + size, 0);
            self.stream.read_exact(&mut body[at..]).ok()?;
            if !self.line()?.is_empty() {
                return None;
            }
            if size == 0 {
                return Some(());
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        match self.stream.read_until(b'\n', &mut line) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("the server says nothing: {error}"),
        }
        let line = line.strip_suffix(b"\r\n")?;
        Some(String::from_utf8(line.to_vec()).unwrap())
    }

    /// Whether the server ends the connection, after whatever it still says.
    pub fn is_closed(&mut self) -> bool {
        match io::copy(&mut self.stream, &mut io::sink()) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// Whether nothing has come so far.
    pub fn is_silent(&mut self) -> bool {
        self.stream.get_ref().set_nonblocking(true).unwrap();
        let silent = match self.stream.fill_buf() {
            Ok(bytes) => bytes.is_empty(),
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        self.stream.get_ref().set_nonblocking(false).unwrap();
        silent
    }
}
