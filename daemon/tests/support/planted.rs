//! Pinned maps as another linnet would have made them, from a description in `tests/fixtures/layouts`, made and filled
//! with bpftool. Must never stay behind: whoever plants removes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Where the descriptions are.
pub(crate) fn layouts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/layouts")
}

/// A description by its name.
pub(crate) fn layout(name: &str) -> Value {
    let path = layouts().join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    serde_json::from_str(&text).unwrap()
}

/// A description with a line for each map.
pub(crate) fn text_of(layout: &Value) -> String {
    let maps: Vec<_> =
        layout["maps"].as_array().unwrap().iter().map(|map| format!("    {map}")).collect();
    format!(
        "{{\n  \"abi_version\": {},\n  \"layout_hash\": {},\n  \"maps\": [\n{}\n  ]\n}}\n",
        layout["abi_version"],
        layout["layout_hash"],
        maps.join(",\n")
    )
}

/// A folder for pins, which goes with whatever is in it.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn bpftool(args: &[&str]) -> String {
    let output = Command::new("bpftool").args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "bpftool {args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Makes a map and pins it under its name.
pub(crate) fn map(folder: &Path, map: &Value) {
    let number = |field: &str| map[field].as_u64().unwrap().to_string();
    let name = map["name"].as_str().unwrap();
    let pin = folder.join(name);
    // The kernel's names are shorter.
    let short: String = name.chars().take(15).collect();
    let (key, value, entries, flags) =
        (number("key"), number("value"), number("entries"), number("flags"));
    let mut args = vec!["map", "create", pin.to_str().unwrap(), "type"];
    args.extend([map["kind"].as_str().unwrap(), "key", &key, "value", &value]);
    args.extend(["entries", &entries, "name", &short, "flags", &flags]);
    bpftool(&args);
}

/// Writes an element into a pinned map.
pub(crate) fn fill(pin: &Path, key: &[u8], value: &[u8]) {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>();
    let (key, value) = (hex(key), hex(value));
    let mut args = vec!["map", "update", "pinned", pin.to_str().unwrap(), "key", "hex"];
    args.extend(key.iter().map(String::as_str));
    args.extend(["value", "hex"]);
    args.extend(value.iter().map(String::as_str));
    bpftool(&args);
}

/// The elements of a pinned map, as text.
pub(crate) fn dump(pin: &Path) -> String {
    bpftool(&["map", "dump", "pinned", pin.to_str().unwrap()])
}

/// The id of what is pinned.
pub(crate) fn id(pin: &Path) -> u64 {
    let shown = bpftool(&["-j", "map", "show", "pinned", pin.to_str().unwrap()]);
    serde_json::from_str::<Value>(&shown).unwrap()["id"].as_u64().unwrap()
}

/// Pins a program.
pub(crate) fn pin_program(id: u64, pin: &Path) {
    bpftool(&["prog", "pin", "id", &id.to_string(), pin.to_str().unwrap()]);
}

/// Whether the kernel has a map of this id.
pub(crate) fn exists(id: u64) -> bool {
    let show = ["map", "show", "id", &id.to_string()];
    Command::new("bpftool").args(show).output().unwrap().status.success()
}

/// Says in `META` what the maps of a folder are.
pub(crate) fn sign(folder: &Path, layout: &Value) {
    let hash = u64::from_str_radix(layout["layout_hash"].as_str().unwrap(), 16).unwrap();
    let meta = [layout["abi_version"].as_u64().unwrap(), hash].map(u64::to_le_bytes).concat();
    fill(&folder.join("META"), &[0; 4], &meta);
}

/// Makes all maps of a layout, signs them, and puts so many flows in.
pub(crate) fn whole(folder: &Path, layout: &Value, flows: u8) {
    for each in layout["maps"].as_array().unwrap() {
        map(folder, each);
    }
    sign(folder, layout);
    let of_flows = layout["maps"].as_array().unwrap().iter().find(|it| it["name"] == "FLOWS");
    let size = |field: &str| of_flows.unwrap()[field].as_u64().unwrap() as usize;
    for number in 1..=flows {
        fill(&folder.join("FLOWS"), &vec![number; size("key")], &vec![0xa5; size("value")]);
    }
}
