//! The load of `.ci/campaign getkey`, and the floor it is compared with.
//!
//! ```text
//! getkey_load drive AGENT FLOOR RATE SECONDS   asks both sockets in turns; prints one line of JSON
//! getkey_load floor SOCKET                     a bare hyper server that answers every request with one fixed Version
//! ```
//!
//! Rule: the loop is open. Requests have appointed times, nobody waits for an answer before the next one is sent, and a
//! latency counts from the appointed time: an agent that stalls cannot hide the requests it kept from being sent.

use http_body_util::Full;
use hyper::{Request, Response, body::Bytes, header::CONTENT_TYPE, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    error::Error,
    path::Path,
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use synod_agent::Agent;
use tokio::{net::UnixListener, runtime::Handle, sync::mpsc};

/// Clients that share the load, each with its own connections, as so many processes of one guest would.
const CLIENTS: usize = 8;
/// Different keys that are asked for; each answer is compared with the first of its path.
const PATHS: usize = 64;
/// The two sockets are asked in turns of this length, so that both meet the same weather.
const TURN: Duration = Duration::from_secs(5);
/// Most requests one run may plan; all of them can be under way at once.
const REQUESTS_MAX: u64 = 10_000_000;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words.iter().map(String::as_str).collect::<Vec<_>>()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("getkey_load: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn run(words: &[&str]) -> Result<(), Failure> {
    match *words {
        ["floor", socket] => floor(Path::new(socket)).await,
        ["drive", agent, floor, rate, seconds] => {
            let plan = Plan {
                rate: rate.parse()?,
                left: Duration::try_from_secs_f64(seconds.parse()?)?,
            };
            println!("{}", drive(Path::new(agent), Path::new(floor), plan).await?);
            Ok(())
        }
        _ => Err("expected: drive AGENT FLOOR RATE SECONDS, or: floor SOCKET".into()),
    }
}

struct Plan {
    rate: u32,
    left: Duration,
}

/// What is asked, and what has to come back.
enum Question {
    Version,
    Key { path: String, expected: [u8; 32] },
}

/// One answered request.
struct Sample {
    /// From the appointed time to the first instruction of the client: our own lateness.
    started_late: Duration,
    /// From the appointed time to the checked answer.
    latency: Duration,
}

async fn drive(agent: &Path, floor: &Path, mut plan: Plan) -> Result<Value, Failure> {
    let requests = plan.left.as_secs_f64() * f64::from(plan.rate);
    if plan.rate == 0 || !(1.0..=REQUESTS_MAX as f64).contains(&requests) {
        return Err(format!("expected 1 to {REQUESTS_MAX} requests, found {requests}").into());
    }
    let agents = clients(agent)?;
    let floors = clients(floor)?;
    let keys = Arc::new(questions(&agents).await?);
    let version = Arc::new(vec![Question::Version]);
    let (mut of_agent, mut of_floor) = (Vec::new(), Vec::new());
    while !plan.left.is_zero() {
        let turn = plan.left.min(TURN);
        plan.left -= turn;
        of_floor.extend(load(&floors, &version, plan.rate, turn).await?);
        of_agent.extend(load(&agents, &keys, plan.rate, turn).await?);
    }
    Ok(json!({
        "rate": plan.rate, "clients": CLIENTS, "paths": PATHS,
        "GetKey": summary(of_agent), "floor": summary(of_floor),
    }))
}

fn clients(socket: &Path) -> Result<Vec<Agent>, Failure> {
    Ok((0..CLIENTS)
        .map(|_| Agent::new(socket))
        .collect::<Result<_, _>>()?)
}

/// The keys as they have to come back; asking for them opens every client's connection too.
async fn questions(agents: &[Agent]) -> Result<Vec<Question>, Failure> {
    let mut all = Vec::with_capacity(PATHS);
    for (number, agent) in (0..PATHS).zip(agents.iter().cycle()) {
        let path = format!("load/{number}");
        let expected = *agent.key(&path, "load").await?.secret.expose();
        all.push(Question::Key { path, expected });
    }
    Ok(all)
}

/// Asks at `rate` for as long as `turn`; every request has to succeed.
async fn load(
    agents: &[Agent],
    questions: &Arc<Vec<Question>>,
    rate: u32,
    turn: Duration,
) -> Result<Vec<Sample>, Failure> {
    let planned = (turn.as_secs_f64() * f64::from(rate)).ceil() as u32;
    let (done, mut results) = mpsc::unbounded_channel();
    let (agents, questions, runtime) = (agents.to_vec(), questions.clone(), Handle::current());
    // a thread of its own: tokio's timer knows whole milliseconds only
    let clock = thread::spawn(move || {
        let start = Instant::now();
        for number in 0..planned {
            let due = start + Duration::from_secs(1) * number / rate;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let (agent, questions) = (agents[number as usize % CLIENTS].clone(), questions.clone());
            let done = done.clone();
            runtime.spawn(async move {
                let question = &questions[number as usize % questions.len()];
                let _ = done.send(sample(&agent, question, due).await);
            });
        }
    });
    let mut samples = Vec::new();
    while let Some(result) = results.recv().await {
        samples.push(result?);
    }
    clock
        .join()
        .map_err(|_| "the thread that keeps the appointments panicked")?;
    if samples.len() != planned as usize {
        return Err(format!("expected {planned} answers, found {}", samples.len()).into());
    }
    Ok(samples)
}

async fn sample(agent: &Agent, question: &Question, due: Instant) -> Result<Sample, Failure> {
    let started_late = due.elapsed();
    match question {
        Question::Version => drop(agent.version().await?),
        Question::Key { path, expected } => {
            if agent.key(path, "load").await?.secret.expose() != expected {
                return Err(
                    format!("expected the same key as before for {path}, found another").into(),
                );
            }
        }
    }
    Ok(Sample {
        started_late,
        latency: due.elapsed(),
    })
}

fn summary(samples: Vec<Sample>) -> Value {
    let sorted = |of: fn(&Sample) -> Duration| {
        let mut all: Vec<Duration> = samples.iter().map(of).collect();
        all.sort_unstable();
        all
    };
    let (latency, late) = (sorted(|s| s.latency), sorted(|s| s.started_late));
    json!({
        "answers": samples.len(),
        "p50_ms": percentile(&latency, 50.0), "p99_ms": percentile(&latency, 99.0),
        "p999_ms": percentile(&latency, 99.9), "max_ms": percentile(&latency, 100.0),
        "late_p50_ms": percentile(&late, 50.0), "late_p99_ms": percentile(&late, 99.0),
    })
}

/// Nearest rank, in milliseconds.
fn percentile(sorted: &[Duration], percent: f64) -> f64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    let value = sorted.get(rank.saturating_sub(1)).copied();
    value.unwrap_or_default().as_secs_f64() * 1e3
}

/// What hyper, the socket and our client cost together when nobody derives or signs anything.
async fn floor(socket: &Path) -> Result<(), Failure> {
    const ANSWER: &[u8] = br#"{"version":"0.5.11","rev":"unknown"}"#;
    let listener = UnixListener::bind(socket)?;
    println!("ready");
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let answer = service_fn(|_: Request<_>| async {
                let mut response = Response::new(Full::new(Bytes::from_static(ANSWER)));
                let json = "application/json".parse().expect("a legal header value");
                response.headers_mut().insert(CONTENT_TYPE, json);
                Ok::<_, Infallible>(response)
            });
            // a client that goes away is no event here
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}
