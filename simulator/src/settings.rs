//! What shall be served, from command line and file together.
//!
//! Rule: the file is read strictly (unknown keys, wrong lengths and too large files are refused with the line), its
//! paths are relative to its own directory, and errors name option and key but do not repeat a value that may be a key.

use crate::options::{INSTANCES_MAX, Options, QUOTE_MS_MAX, hex_bytes, ip_port};
use anyhow::{Context, bail, ensure};
use dstack_simulator::{
    AppCa, AppKeys, EventLog, InstanceConfig, KeyProvider, MrConfigId, Traits, WorldSpec,
    instance_seed,
};
use rand_core::RngCore;
use serde::{Deserialize, Deserializer, de::Error as _};
use std::{
    collections::BTreeSet,
    fs::File,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
const DSTACK_SOCKET: &str = "dstack.sock";
const TAPPD_SOCKET: &str = "tappd.sock";

/// What shall be served.
pub struct Plan {
    /// The world.
    pub spec: WorldSpec,
    /// Its guests.
    pub instances: Vec<InstanceConfig>,
    /// The directory of their sockets, if one is named; it need not exist.
    pub dir: Option<PathBuf>,
    /// What people have to know first.
    pub warning: Option<String>,
}

/// `N` bytes in hex.
struct Hex<const N: usize>([u8; N]);

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        hex_bytes(&text).map(Self).map_err(D::Error::custom)
    }
}

/// An address to listen on.
struct IpPort(SocketAddr);

impl<'de> Deserialize<'de> for IpPort {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        ip_port(&text)
            .map(Self)
            .map_err(|fault| D::Error::custom(format!("{fault} for http (--http)")))
    }
}

/// The file, as it is written.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    dir: Option<PathBuf>,
    socket: Option<PathBuf>,
    instances: Option<u32>,
    tappd: bool,
    http: Option<IpPort>,
    seed: Option<Hex<32>>,
    instance_seeds: Vec<Hex<32>>,
    compose: Option<PathBuf>,
    app_id: Option<Hex<20>>,
    key_provider: Option<KeyProvider>,
    os_image_hash: Option<Hex<32>>,
    mr_config_id: Option<u8>,
    app_keys: Option<WrittenKeys>,
    app_ca: Option<WrittenCa>,
    traits: WrittenTraits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKeys {
    root: Hex<32>,
    link: Option<Hex<65>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCa {
    certificates: String,
    key: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenTraits {
    event_log: Option<EventLog>,
    quote_time_ms: Option<u64>,
    quote_fails_every: Option<u32>,
    drop_every: Option<u32>,
}

impl Plan {
    /// Reads the files that the options name and puts everything together.
    pub fn new(options: Options) -> anyhow::Result<Self> {
        let file = match &options.config {
            Some(path) => read_file(path)?,
            None => Written::default(),
        };
        let http = options.http.or(file.http.as_ref().map(|http| http.0));
        let warning = http
            .map(|address| public(address, options.insecure_public_http))
            .transpose()?
            .flatten();
        let traits = traits(&options, &file.traits)?;
        let seed = match options.seed.or(file.seed.as_ref().map(|hex| hex.0)) {
            Some(seed) => seed,
            None => random_seed(),
        };
        let seeds = instance_seeds(&options, &file, &seed)?;
        let dir = place(&options, &file).0.clone();
        let mut instances = places(&options, &file, &seeds)?;
        for instance in &mut instances {
            instance.traits = traits.clone();
        }
        if let Some(first) = instances.first_mut() {
            first.http = http;
        }
        Ok(Self {
            spec: spec(options, file, seed)?,
            instances,
            dir,
            warning,
        })
    }
}

fn spec(options: Options, file: Written, seed: [u8; 32]) -> anyhow::Result<WorldSpec> {
    let mut spec = match options.compose.or(file.compose) {
        Some(path) => {
            let text = read_text(&path).context(
                "cannot read the compose text that --compose (compose in the file) names",
            )?;
            WorldSpec::of_compose(seed, text).with_context(|| path.display().to_string())?
        }
        None => WorldSpec::new(seed),
    };
    if let Some(provider) = options.key_provider.or(file.key_provider) {
        spec.key_provider = provider;
    }
    spec.app_id = options.app_id.or(file.app_id.map(|hex| hex.0));
    spec.os_image_hash = options
        .os_image_hash
        .or(file.os_image_hash.map(|hex| hex.0));
    spec.mr_config_id = match (options.mr_config_id, file.mr_config_id) {
        (Some(given), _) => given,
        (None, None | Some(1)) => MrConfigId::V1,
        (None, Some(2)) => MrConfigId::V2,
        (None, Some(other)) => {
            bail!("expected 1 or 2 for mr_config_id (--mr-config-id), found {other}")
        }
    };
    // a link recovers to some KMS root with any app id, so a wrong one would not be noticed
    ensure!(
        spec.app_id.is_some()
            || file
                .app_keys
                .as_ref()
                .is_none_or(|keys| keys.link.is_none()),
        "expected app_id (--app-id) beside link in [app_keys], found none: a link is a signature over the app id too, \
        and with another id it leads to a KMS root that does not exist; give the app id that the link was made for"
    );
    spec.app_keys = file.app_keys.map(|keys| AppKeys {
        root: keys.root.0.into(),
        link: keys.link.map_or_else(Vec::new, |link| link.0.to_vec()),
    });
    spec.app_ca = file.app_ca.map(|ca| AppCa {
        certificates: ca.certificates,
        key: ca.key.into(),
    });
    Ok(spec)
}

fn traits(options: &Options, file: &WrittenTraits) -> anyhow::Result<Traits> {
    let quote_ms = options.quote_time_ms.or(file.quote_time_ms).unwrap_or(0);
    ensure!(
        quote_ms <= QUOTE_MS_MAX,
        "expected at most {QUOTE_MS_MAX} for quote_time_ms (--quote-time-ms), which is 10 minutes, found {quote_ms}"
    );
    Ok(Traits {
        event_log: options.event_log.or(file.event_log).unwrap_or_default(),
        quote_time: Duration::from_millis(quote_ms),
        quote_fails_every: options
            .quote_fails_every
            .or(file.quote_fails_every)
            .unwrap_or(0),
        drop_every: options.drop_every.or(file.drop_every).unwrap_or(0),
    })
}

/// One seed for each instance; those that are not given follow from the world's.
fn instance_seeds(
    options: &Options,
    file: &Written,
    world_seed: &[u8; 32],
) -> anyhow::Result<Vec<[u8; 32]>> {
    let given: Vec<[u8; 32]> = match options.instance_seeds.as_slice() {
        [] => file.instance_seeds.iter().map(|hex| hex.0).collect(),
        given => given.to_vec(),
    };
    let count = match options.instances.or(file.instances) {
        Some(count) => count,
        None => u32::try_from(given.len().max(1)).unwrap_or(u32::MAX),
    };
    ensure!(
        (1..=INSTANCES_MAX).contains(&count),
        "expected 1 to {INSTANCES_MAX} instances (--instances, or as many as there are instance seeds), found {count}"
    );
    let seeds: Vec<[u8; 32]> = (1..=count)
        .map(|n| instance_seed(world_seed, n))
        .enumerate()
        .map(|(at, derived)| given.get(at).copied().unwrap_or(derived))
        .collect();
    ensure!(
        given.len() <= seeds.len(),
        "expected at most one instance seed (--instance-seed, instance_seeds in the file) for each of {count} instances, \
        found {}",
        given.len()
    );
    let different: BTreeSet<&[u8; 32]> = seeds.iter().collect();
    ensure!(
        different.len() == seeds.len(),
        "expected a different seed (--instance-seed, instance_seeds in the file) for each instance, found one twice: two \
        with one seed would be the same instance"
    );
    Ok(seeds)
}

/// Directory or socket. Upon an option that says where, the file's word on it is not asked.
fn place<'a>(
    options: &'a Options,
    file: &'a Written,
) -> (&'a Option<PathBuf>, &'a Option<PathBuf>) {
    match (&options.dir, &options.socket) {
        (None, None) => (&file.dir, &file.socket),
        given => given,
    }
}

/// Where each instance is served.
fn places(
    options: &Options,
    file: &Written,
    seeds: &[[u8; 32]],
) -> anyhow::Result<Vec<InstanceConfig>> {
    let (dir, socket) = place(options, file);
    let tappd = options.tappd || file.tappd;
    let one = match (dir, socket) {
        (Some(_), Some(_)) => {
            bail!("expected dir or socket (--dir or --socket), found both; leave one out")
        }
        (Some(dir), None) => {
            return Ok((1..)
                .zip(seeds)
                .map(|(n, seed)| InstanceConfig {
                    tappd: tappd.then(|| dir.join(format!("node{n}.tappd.sock"))),
                    ..InstanceConfig::new(dir.join(format!("node{n}.sock")), *seed)
                })
                .collect());
        }
        (None, Some(socket)) => (
            socket.clone(),
            tappd.then(|| socket.with_file_name(TAPPD_SOCKET)),
        ),
        (None, None) => (
            Path::new(".").join(DSTACK_SOCKET),
            Some(Path::new(".").join(TAPPD_SOCKET)),
        ),
    };
    match seeds {
        [seed] => Ok(vec![InstanceConfig {
            tappd: one.1,
            ..InstanceConfig::new(one.0, *seed)
        }]),
        several => bail!(
            "expected a directory for the sockets of {} instances, found none; add --dir DIR (dir in the file)",
            several.len()
        ),
    }
}

/// Refuses an address that others reach, unless that is wanted; then this is the warning.
fn public(address: SocketAddr, wanted: bool) -> anyhow::Result<Option<String>> {
    match (address.ip().is_loopback(), wanted) {
        (true, _) => Ok(None),
        (false, true) => Ok(Some(format!(
            "WARNING: whoever reaches http://{address} gets every key of this simulator; there is no password"
        ))),
        (false, false) => bail!(
            "expected a loopback address for --http (http in the file), such as 127.0.0.1:8090, found {address}: whoever \
            reaches it gets every key; add the option --insecure-public-http if that is wanted"
        ),
    }
}

fn random_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    rand_core::OsRng.fill_bytes(&mut seed);
    seed
}

fn read_file(path: &Path) -> anyhow::Result<Written> {
    let text = read_text(path).context("cannot read the settings that --config names")?;
    let mut written = parse(&text).with_context(|| path.display().to_string())?;
    let base = path.parent().unwrap_or(Path::new(""));
    for relative in [&mut written.dir, &mut written.socket, &mut written.compose]
        .into_iter()
        .flatten()
    {
        *relative = base.join(&relative);
    }
    Ok(written)
}

/// The parser's own messages quote the line, which may hold a key.
fn parse(text: &str) -> anyhow::Result<Written> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + text
            .bytes()
            .take(start)
            .filter(|byte| *byte == b'\n')
            .count();
        anyhow::anyhow!("line {line}: {}", error.message())
    })
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .with_context(|| path.display().to_string())?;
    ensure!(
        text.len() as u64 <= FILE_BYTES_MAX,
        "expected at most {FILE_BYTES_MAX} bytes in {}, found more",
        path.display()
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    const ROOT: &str = "d6e88992cdeeee35fe70b5db61ab66cdb191fb9b6ec9313757ef162dd7214d5d";

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        /// The plan of a file and of options beside it.
        fn plan(&self, file: &str, options: &[&str]) -> anyhow::Result<Plan> {
            std::fs::write(self.path("world.toml"), file).unwrap();
            let config = self.path("world.toml");
            let arguments = ["simulator", "--config", config.to_str().unwrap()];
            plan(arguments.iter().chain(options))
        }

        fn fault(&self, file: &str, options: &[&str]) -> String {
            match self.plan(file, options) {
                Ok(_) => panic!("accepted: {file} {options:?}"),
                Err(error) => format!("{error:#}"),
            }
        }
    }

    fn plan<'a>(arguments: impl Iterator<Item = &'a &'a str>) -> anyhow::Result<Plan> {
        Plan::new(Options::try_parse_from(arguments)?)
    }

    fn sockets(plan: &Plan) -> Vec<(&Path, Option<&Path>)> {
        plan.instances
            .iter()
            .map(|instance| (instance.socket.as_path(), instance.tappd.as_deref()))
            .collect()
    }

    #[test]
    fn without_a_word_on_places_both_sockets_are_in_the_working_directory() {
        let here = plan(["simulator"].iter()).unwrap();
        let found = (Path::new("./dstack.sock"), Some(Path::new("./tappd.sock")));
        assert_eq!(sockets(&here), [found]);
        assert!(here.instances[0].http.is_none() && here.warning.is_none());
        assert_eq!(here.instances[0].traits, Traits::default());
        let fault = plan(["simulator", "--instances", "2"].iter())
            .err()
            .unwrap();
        assert!(fault.to_string().contains("add --dir"), "{fault}");
    }

    #[test]
    fn a_directory_has_a_socket_for_each_instance_and_one_for_old_clients_if_asked() {
        let three = plan(["simulator", "--dir", "d", "--instances", "3"].iter()).unwrap();
        assert_eq!(sockets(&three)[2], (Path::new("d/node3.sock"), None));
        let one = plan(["simulator", "--dir", "d", "--tappd"].iter()).unwrap();
        let found = (
            Path::new("d/node1.sock"),
            Some(Path::new("d/node1.tappd.sock")),
        );
        assert_eq!(sockets(&one), [found]);
        let exact = plan(["simulator", "--socket", "d/x.sock", "--tappd"].iter()).unwrap();
        let found = (Path::new("d/x.sock"), Some(Path::new("d/tappd.sock")));
        assert_eq!(sockets(&exact), [found]);
    }

    #[test]
    fn the_whole_file_arrives_and_its_paths_are_relative_to_it() {
        let place = Place::new();
        std::fs::write(place.path("app.json"), r#"{"name":"a","kms_enabled":true}"#).unwrap();
        let link = "11".repeat(65);
        let text = format!(
            r#"
            seed = "0x{seed}"
            app_id = "{app}"
            compose = "app.json"
            key_provider = "kms"
            os_image_hash = "{seed}"
            mr_config_id = 2
            dir = "sockets"
            tappd = true
            http = "127.0.0.1:8090"
            instances = 2
            instance_seeds = ["{first}"]
            [app_keys]
            root = "{ROOT}"
            link = "{link}"
            [app_ca]
            certificates = "c"
            key = "k"
            [traits]
            event_log = "full"
            quote_time_ms = 200
            quote_fails_every = 3
            drop_every = 2
            "#,
            seed = "22".repeat(32),
            app = "33".repeat(20),
            first = "44".repeat(32),
        );
        let plan = place.plan(&text, &[]).unwrap();
        assert_eq!(plan.spec.seed, [0x22; 32]);
        assert_eq!(plan.spec.app_id, Some([0x33; 20]));
        assert!(plan.spec.compose.contains("kms_enabled"));
        assert_eq!(plan.spec.os_image_hash, Some([0x22; 32]));
        assert_eq!(plan.spec.mr_config_id, MrConfigId::V2);
        let keys = plan.spec.app_keys.unwrap();
        assert_eq!(hex::encode(*keys.root), ROOT);
        assert_eq!(keys.link, [0x11; 65]);
        let ca = plan.spec.app_ca.unwrap();
        assert_eq!((&*ca.certificates, &**ca.key), ("c", "k"));

        let [first, second] = &plan.instances[..] else {
            panic!("two instances");
        };
        assert_eq!(first.socket, place.path("sockets/node1.sock"));
        assert_eq!(second.tappd, Some(place.path("sockets/node2.tappd.sock")));
        assert_eq!(
            (first.http.map(|a| a.port()), second.http),
            (Some(8090), None)
        );
        assert_eq!(first.seed, [0x44; 32]);
        assert_eq!(second.seed, instance_seed(&[0x22; 32], 2));
        let habits = Traits {
            event_log: EventLog::Full,
            quote_time: Duration::from_millis(200),
            quote_fails_every: 3,
            drop_every: 2,
        };
        assert_eq!((&first.traits, &second.traits), (&habits, &habits));
    }

    #[test]
    fn an_option_wins_over_the_file() {
        let place = Place::new();
        let file = r#"
            key_provider = "tpm"
            mr_config_id = 2
            socket = "x.sock"
            [traits]
            event_log = "full"
            drop_every = 2
        "#;
        let seed = "55".repeat(32);
        let options = [
            "--key-provider",
            "local",
            "--mr-config-id",
            "1",
            "--dir",
            "d",
            "--event-log",
            "stripped",
            "--drop-every",
            "0",
            "--instance-seed",
            &seed,
            "--instance-seed",
            ROOT,
        ];
        let plan = place.plan(file, &options).unwrap();
        assert_eq!(plan.spec.key_provider, KeyProvider::Local);
        assert_eq!(plan.spec.mr_config_id, MrConfigId::V1);
        assert_eq!(plan.instances.len(), 2, "as many as there are seeds");
        assert_eq!(plan.instances[0].socket, Path::new("d/node1.sock"));
        assert_eq!(plan.instances[0].seed, [0x55; 32]);
        assert_eq!(plan.instances[0].traits, Traits::default());
    }

    #[test]
    fn faults_of_the_file_name_the_line_and_never_repeat_a_key() {
        let place = Place::new();
        for (file, words) in [
            (
                "\nsed = \"00\"",
                vec!["world.toml", "line 2", "unknown field `sed`"],
            ),
            ("[traits]\ndrop = 1", vec!["line 2", "unknown field `drop`"]),
            ("instances = \"3\"", vec!["line 1", "invalid type"]),
            (
                "seed = \"00ff\"",
                vec!["line 1", "64 hex digits", "4 characters"],
            ),
            (
                "[app_keys]\nroot = \"secret\"",
                vec!["line 2", "64 hex digits"],
            ),
            (
                "[app_keys]\nlink = \"00\"",
                vec!["line 2", "130 hex digits"],
            ),
            ("[app_keys]\nlnk = 0", vec!["line 2", "unknown field `lnk`"]),
            ("[app_keys]", vec!["line 1", "missing field `root`"]),
            (
                "key_provider = \"sgx\"",
                vec!["line 1", "unknown variant `sgx`"],
            ),
            ("\n\nx =", vec!["line 3"]),
            (
                "instances = 65",
                vec!["1 to 64 instances", "--instances", "65"],
            ),
            ("instances = 0", vec!["1 to 64 instances"]),
            (
                "mr_config_id = 3",
                vec!["mr_config_id (--mr-config-id)", "1 or 2", "3"],
            ),
            (
                "dir = \"a\"\nsocket = \"b\"",
                vec!["dir or socket", "--dir or --socket", "both"],
            ),
            (
                "[traits]\nquote_time_ms = 600001",
                vec!["--quote-time-ms", "600000", "600001"],
            ),
            ("instances = 2", vec!["--dir DIR", "dir in the file"]),
            (
                "http = \"8090\"",
                vec!["line 1", "IP:PORT, such as 127.0.0.1:8090", "--http"],
            ),
            (
                "compose = \"absent.json\"",
                vec!["compose text", "absent.json"],
            ),
            (
                "http = \"192.0.2.1:80\"",
                vec!["loopback", "http in the file", "--insecure-public-http"],
            ),
        ] {
            let fault = place.fault(file, &[]);
            assert!(
                words.iter().all(|word| fault.contains(word)),
                "{file}: {fault}"
            );
            assert!(!fault.contains("secret"), "{fault}");
        }
        let large = format!("# {}", "x".repeat(FILE_BYTES_MAX as usize));
        assert!(place.fault(&large, &[]).contains("at most 1048576 bytes"));
    }

    #[test]
    fn a_link_needs_the_app_id_that_it_was_made_for() {
        let place = Place::new();
        let file = format!(
            "[app_keys]\nroot = \"{ROOT}\"\nlink = \"{}\"",
            "11".repeat(65)
        );
        let fault = place.fault(&file, &[]);
        for word in ["app_id (--app-id)", "link", "made for"] {
            assert!(fault.contains(word), "{fault}");
        }
        let app_id = "33".repeat(20);
        assert!(place.plan(&file, &["--app-id", &app_id]).is_ok());
        let alone = format!("[app_keys]\nroot = \"{ROOT}\"");
        assert!(
            place.plan(&alone, &[]).is_ok(),
            "the own KMS root signs for the own app id"
        );
    }

    #[test]
    fn the_directory_of_the_sockets_is_the_options_or_the_files() {
        let place = Place::new();
        let of_file = place.plan("dir = \"d\"", &[]).unwrap();
        assert_eq!(of_file.dir, Some(place.path("d")));
        let of_option = place.plan("dir = \"d\"", &["--dir", "e"]).unwrap();
        assert_eq!(of_option.dir, Some(PathBuf::from("e")));
        let exact = place.plan("dir = \"d\"", &["--socket", "x.sock"]).unwrap();
        assert_eq!(exact.dir, None, "somebody else's directory");
    }

    #[test]
    fn one_seed_for_two_instances_or_more_seeds_than_instances_are_refused() {
        let place = Place::new();
        let seed = "00".repeat(32);
        let twice = format!("dir = \"d\"\ninstance_seeds = [\"{seed}\", \"{seed}\"]");
        assert!(place.fault(&twice, &[]).contains("found one twice"));
        let more = place.fault(&twice, &["--instances", "1"]);
        assert!(more.contains("found 2"), "{more}");
    }

    #[test]
    fn a_compose_text_says_who_keeps_the_keys_unless_an_option_does() {
        let place = Place::new();
        for (text, provider) in [
            ("{}", KeyProvider::None),
            (r#"{"kms_enabled":true}"#, KeyProvider::Kms),
            (r#"{"key_provider":"tpm"}"#, KeyProvider::Tpm),
        ] {
            std::fs::write(place.path("app.json"), text).unwrap();
            let plan = place.plan("compose = \"app.json\"", &[]).unwrap();
            assert_eq!(plan.spec.key_provider, provider, "{text}");
        }
        std::fs::write(place.path("app.json"), "[]").unwrap();
        let fault = place.fault("compose = \"app.json\"", &[]);
        assert!(
            fault.contains("app.json") && fault.contains("JSON object"),
            "{fault}"
        );
    }

    #[test]
    fn an_address_that_others_reach_is_refused_unless_it_is_wanted_and_then_warned_of() {
        let everywhere = "0.0.0.0:8090".parse().unwrap();
        let fault = public(everywhere, false).unwrap_err().to_string();
        assert!(fault.contains("--insecure-public-http") && fault.contains("0.0.0.0:8090"));
        let warning = public(everywhere, true).unwrap().unwrap();
        assert!(warning.contains("WARNING") && warning.contains("every key"));
        for loopback in ["127.0.0.1:1", "127.3.2.1:1", "[::1]:1"] {
            assert_eq!(public(loopback.parse().unwrap(), false).unwrap(), None);
        }
    }
}
