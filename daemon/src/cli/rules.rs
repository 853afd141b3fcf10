//! `linnet rules`: what the daemon tracks, shown as TOML that `set` takes again, replaced from a file, or only checked.
//! Must never send a list with a mistake in it.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ExitWith, exit, foreign, printable, say, unreadable};
use crate::{
    client::{Client, SOCKET_DEFAULT},
    rules::{ReadRule, read_json, text},
};

/// Largest file that is read, bytes; a list of the most rules takes a tenth of it.
const FILE_MAX: u64 = 4 << 20;

/// Arguments of `linnet rules`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct RulesArgs {
    #[command(subcommand)]
    command: Option<RulesCommand>,
    #[command(flatten)]
    show: ShowArgs,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// The daemon's socket.
    #[arg(long, env = "LINNET_SOCKET", default_value = SOCKET_DEFAULT, value_name = "PATH")]
    socket: PathBuf,
    /// Print the API's answer as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum RulesCommand {
    /// Put the rules of a file in force, in place of those before, without a gap.
    Set(SetArgs),
    /// Say whether a file's rules can be used; asks no daemon, so interfaces are taken as they are.
    Check(CheckArgs),
}

#[derive(Debug, clap::Args)]
struct SetArgs {
    /// TOML with [[rules]], or JSON with a list `rules`; `-` for standard input.
    file: PathBuf,
    /// The daemon's socket.
    #[arg(long, env = "LINNET_SOCKET", default_value = SOCKET_DEFAULT, value_name = "PATH")]
    socket: PathBuf,
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// TOML with [[rules]], or JSON with a list `rules`; `-` for standard input.
    file: PathBuf,
}

/// What the API answers.
#[derive(Deserialize)]
struct Shown {
    generation: u64,
    rules: Vec<Value>,
}

/// Shows, sets or checks rules.
pub fn run(args: &RulesArgs) -> anyhow::Result<u8> {
    match &args.command {
        None => show(&args.show)?,
        Some(RulesCommand::Set(set)) => put(set)?,
        Some(RulesCommand::Check(check)) => {
            say(&format!("usable: {}\n", counted(read(&check.file)?.len())))?;
        }
    }
    Ok(0)
}

fn show(args: &ShowArgs) -> anyhow::Result<()> {
    let client = Client::connect(&args.socket).map_err(ExitWith::from)?;
    let answer = client.get("/api/v1/rules").map_err(ExitWith::from)?;
    if args.json {
        return Ok(say(&format!("{answer}\n"))?);
    }
    let shown = shown(answer)?;
    let list = if shown.rules.is_empty() {
        "# everything is tracked\n".to_owned()
    } else {
        toml::to_string(&json!({ "rules": shown.rules })).map_err(|error| foreign(&error))?
    };
    let text = format!("# generation {}\n{list}", shown.generation);
    let lines: Vec<_> = text.lines().map(printable).collect();
    Ok(say(&(lines.join("\n") + "\n"))?)
}

fn put(args: &SetArgs) -> anyhow::Result<()> {
    let rules = read(&args.file)?;
    let views: Vec<_> = rules.iter().map(|rule| &rule.view).collect();
    let client = Client::connect(&args.socket).map_err(ExitWith::from)?;
    let answer = client.put("/api/v1/rules", &json!({ "rules": views })).map_err(ExitWith::from)?;
    let shown = shown(answer)?;
    let (count, generation) = (counted(shown.rules.len()), shown.generation);
    Ok(say(&format!("in force: {count} (generation {generation})\n"))?)
}

fn counted(rules: usize) -> String {
    if rules == 1 { "1 rule".to_owned() } else { format!("{rules} rules") }
}

fn shown(answer: Value) -> Result<Shown, ExitWith> {
    Shown::deserialize(answer).map_err(|error| foreign(&error))
}

/// The rules of a file, which is JSON if its first character is a brace.
fn read(path: &Path) -> Result<Vec<ReadRule>, ExitWith> {
    let name = if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        format!("`{}`", path.display())
    };
    let unusable = |problem: String| ExitWith { code: exit::USAGE, message: problem };
    let text = read_text(path).map_err(|error| {
        let message = format!("cannot read {name}: {error}");
        ExitWith { code: unreadable(error.kind()), message }
    })?;
    if text.len() as u64 > FILE_MAX {
        return Err(unusable(format!(
            "{name} is larger than {FILE_MAX} bytes: it is no list of rules"
        )));
    }
    let rules = if text.trim_start().starts_with('{') {
        read_json(text.as_bytes())
    } else {
        let body = toml::from_str(&text);
        text::read_list(body.map_err(|error| unusable(format!("{name} is no TOML: {error}")))?)
    };
    rules.map_err(|error| unusable(format!("{name}: {error}")))
}

/// At most one byte more than may be read.
fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        io::stdin().lock().take(FILE_MAX + 1).read_to_string(&mut text)?;
    } else {
        std::fs::File::open(path)?.take(FILE_MAX + 1).read_to_string(&mut text)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_as(text: &str) -> Result<usize, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let path = folder.path().join("rules");
        std::fs::write(&path, text).map_err(|error| error.to_string())?;
        read(&path).map(|rules| rules.len()).map_err(|error| {
            assert_eq!(error.code, exit::USAGE);
            error.message.replace(&path.display().to_string(), "FILE")
        })
    }

    #[test]
    fn toml_and_json_are_told_apart() {
        assert_eq!(read_as("[[rules]]\naction = 'ignore'\nport = 22\n"), Ok(1));
        assert_eq!(read_as("\n{\"rules\": [{\"action\": \"ignore\"}]}"), Ok(1));
        assert_eq!(read_as("rules = []"), Ok(0));
    }

    #[test]
    fn a_mistake_is_named_with_its_file_and_place() {
        let error = read_as("[[rules]]\naction = 'ignore'\nport = 'ssh'\n").unwrap_err();
        assert!(error.starts_with("`FILE`: `rules[0].port`: `ssh` is no port"), "{error}");
        let error = read_as("[[rules]\naction = 1").unwrap_err();
        assert!(error.contains("`FILE` is no TOML") && error.contains("line 1"), "{error}");
        let error = read_as("{\"rules\": [}").unwrap_err();
        assert!(error.contains("`FILE`: this is no JSON") && error.contains("line 1"), "{error}");
        assert!(read_as("").unwrap_err().contains("there are no `rules`"));
    }

    #[test]
    fn a_key_that_is_there_twice_is_refused_with_its_place() {
        let error = read_as("{\"rules\": [{\"action\": \"ignore\", \"action\": \"track\"}]}");
        assert_eq!(
            error.unwrap_err(),
            "`FILE`: `rules[0].action`: it is there twice; leave one out"
        );
        let error = read_as("{\"rules\": [], \"rules\": []}").unwrap_err();
        assert_eq!(error, "`FILE`: `rules`: it is there twice; leave one out");
        let error = read_as("[[rules]]\naction = 'ignore'\naction = 'track'\n").unwrap_err();
        assert!(error.contains("line 3") && error.contains("duplicate key"), "{error}");
        assert!(error.contains("action = 'track'"), "{error}");
        let error = read_as("rules = []\nrules = []\n").unwrap_err();
        assert!(error.contains("line 2") && error.contains("duplicate key"), "{error}");
    }

    #[test]
    fn a_missing_file_is_a_usage_error() {
        let error = read(Path::new("/no/such/file")).unwrap_err();
        assert_eq!(error.code, exit::USAGE);
    }
}
