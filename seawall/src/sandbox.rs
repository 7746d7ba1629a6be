//! The whole of Seawall on one machine, on real input: a primary, two standbys and an S3 archive, and a story of accidents
//! that ends with a report. Nodes are processes of their own, sockets and the object store's protocol are real; only the
//! machine is shared.

mod api;
mod feeder;
mod process;
mod report;
mod sampler;
mod story;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use seawall_backup::s3_server::S3Server;
use tokio::runtime::Runtime;

use crate::failure::{Failure, Kind};
pub use api::Api;
pub use process::NodeProcess;
pub use report::{Check, Report};

/// How the sandbox runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// A directory, JSONL or CSV file; the sources of the build if not set.
    pub input: Option<PathBuf>,
    /// Bytes of input to ingest before the accidents begin.
    pub limit_bytes: u64,
    /// `ENDPOINT/BUCKET` of a real object store; credentials from the AWS environment. An embedded one if not set.
    pub s3: Option<String>,
    /// How much later than committed the standby that is not required applies the log.
    pub delay: Duration,
    /// Leave everything running at the end until interrupted.
    pub keep: bool,
    /// The program that runs as nodes; this one if not set.
    pub binary: Option<PathBuf>,
}

/// Where the archive is and how nodes get at it.
struct Archive {
    /// The section of the settings.
    settings: String,
    /// Credentials for the nodes' environment.
    environment: Vec<(String, String)>,
    /// The embedded server, if it is one.
    server: Option<S3Server>,
}

const BUCKET: &str = "sandbox";
const ACCESS_KEY: &str = "sandbox";
const SECRET_KEY: &str = "sandbox-secret";

/// Runs the story and says how it went. Progress goes to standard error.
pub fn run(options: &Options) -> Result<Report, Failure> {
    let folder = tempfile::Builder::new().prefix("seawall-sandbox-").tempdir();
    let folder = folder.map_err(|error| Failure::new(Kind::Failed, format!("cannot make a folder: {error}")))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Kind::Failed, format!("cannot start: {error}")))?;
    let archive = start_archive(&runtime, folder.path(), options)?;
    let mut story = story::Story::new(options, folder.path(), archive, &runtime)?;
    let told = story.tell();
    if options.keep {
        story.keep_running();
    }
    if told.is_err() {
        let kept = folder.keep();
        eprintln!("\nthe nodes' data and output are kept in {}", kept.display());
    }
    told
}

fn start_archive(runtime: &Runtime, folder: &Path, options: &Options) -> Result<Archive, Failure> {
    let failed = |what: &str, error: &dyn std::fmt::Display| Failure::new(Kind::Failed, format!("{what}: {error}"));
    let prefix = format!("sandbox-{}", std::process::id());
    if let Some(s3) = &options.s3 {
        let Some((endpoint, bucket)) =
            s3.rsplit_once('/').filter(|(endpoint, bucket)| endpoint.contains("://") && !bucket.is_empty())
        else {
            return Err(Failure::new(Kind::Usage, format!("--s3 {s3} is not of the form http://host:port/bucket")));
        };
        let settings = settings(&format!("s3://{bucket}/{prefix}"), endpoint);
        return Ok(Archive { settings, environment: Vec::new(), server: None });
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let started = runtime.block_on(S3Server::start(folder.join("s3"), ACCESS_KEY, SECRET_KEY, address));
    let server = started.map_err(|error| failed("the embedded object store", &error))?;
    server.create_bucket(BUCKET).map_err(|error| failed("the embedded object store's bucket", &error))?;
    let environment =
        [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY), ("AWS_REGION", "us-east-1")];
    Ok(Archive {
        settings: settings(&format!("s3://{BUCKET}/{prefix}"), &server.endpoint()),
        environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        server: Some(server),
    })
}

fn settings(url: &str, endpoint: &str) -> String {
    format!("[archive]\nurl = \"{url}\"\nendpoint = \"{endpoint}\"\ninterval = \"1s\"\n")
}
