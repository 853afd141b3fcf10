//! docs/configuration.md against the program: every key, default, flag and environment name, and no others.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, path::Path};

use clap::CommandFactory as _;
use daemon::{
    cli::Cli,
    config::{Config, Overrides},
    flow::expiry::Timeouts,
};

const DOCUMENTATION: &str = include_str!("../../docs/configuration.md");
/// Tables of the file, the file itself first.
const TABLES: [&str; 4] = ["", "flows", "capture", "kernel"];

/// The row that stands for a table of its own, which has a section.
const TIMEOUTS: &str = "flows.timeouts";

/// Cells of the documented keys, in the first table: key, value, default, flag, environment; without their quotes.
fn rows() -> Vec<[String; 5]> {
    let lines = DOCUMENTATION.lines().skip_while(|line| !line.starts_with("| `"));
    let cells = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split('|').collect();
        <[&str; 5]>::try_from(cells).unwrap().map(|cell| cell.trim_matches(['`', ' ']).to_owned())
    };
    lines.take_while(|line| line.starts_with("| `")).map(cells).collect()
}

fn load(folder: &Path, text: &str) -> Result<Config, String> {
    let path = folder.join("linnet.toml");
    std::fs::write(&path, text).map_err(|error| error.to_string())?;
    Config::load(Some(&path), Overrides::default()).map_err(|error| error.to_string())
}

/// The keys of a table, by what the program says about one that is none.
fn known(folder: &Path, table: &str) -> BTreeSet<String> {
    let header = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
    let error = load(folder, &format!("{header}nonsense = 1\n")).unwrap_err();
    let (_, expected) = error.split_once("expected ").unwrap();
    let names = expected.lines().next().unwrap().split('`').skip(1).step_by(2);
    let dotted =
        |name| if table.is_empty() { String::from(name) } else { format!("{table}.{name}") };
    names.filter(|name| !TABLES.contains(name)).map(dotted).collect()
}

#[test]
fn every_key_is_documented_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let known: BTreeSet<_> = TABLES.iter().flat_map(|table| known(folder.path(), table)).collect();
    assert!(known.len() > 5, "{known:?}");
    let key = |[key, ..]: [String; 5]| key.trim_end_matches(".*").to_owned();
    let documented: BTreeSet<_> = rows().into_iter().map(key).collect();
    for key in Timeouts::KEYS {
        assert!(DOCUMENTATION.contains(&format!("`{key}`")), "{key}");
    }
    assert_eq!(documented, known);
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = "schema = 1\n".to_owned();
    for [key, _, default, ..] in rows() {
        if key != "schema" && !key.starts_with(TIMEOUTS) {
            text += &format!("{key} = {default}\n");
        }
    }
    let documented = load(folder.path(), &text).unwrap();
    let own = load(folder.path(), "schema = 1\n").unwrap();
    assert_eq!(format!("{documented:?}"), format!("{own:?}"), "{text}");
}

#[test]
fn flags_and_environment_names_are_those_of_the_program() {
    let cli = Cli::command();
    let run = cli.find_subcommand("run").unwrap();
    let mut environment = BTreeSet::new();
    for argument in run.get_arguments() {
        if let Some(name) = argument.get_env() {
            let flag = format!("--{}", argument.get_long().unwrap());
            environment.insert((flag, name.to_str().unwrap().to_owned()));
        }
    }
    let mut documented = BTreeSet::from([("--config".to_owned(), "LINNET_CONFIG".to_owned())]);
    for [_, _, _, flag, name] in rows() {
        let known = |argument: &clap::Arg| argument.get_long() == flag.strip_prefix("--");
        assert!(flag.is_empty() || run.get_arguments().any(known), "{flag}");
        if !name.is_empty() {
            documented.insert((flag, name));
        }
    }
    assert_eq!(documented, environment);
    assert!(DOCUMENTATION.contains("`LINNET_CONFIG` stands for `--config`"));
}

#[test]
fn the_documented_example_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let lines = DOCUMENTATION.lines().filter_map(|line| line.strip_prefix("    "));
    let example: Vec<_> = lines.collect();
    let config = load(folder.path(), &example.join("\n")).unwrap();
    assert_eq!(config.interfaces.len(), 3);
}
