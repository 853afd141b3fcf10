//! The Rust source that a build script includes to carry the objects in its program, and what it tells
//! cargo. Must never let a program be built against objects that a later build can change.

use super::{Messages, NotBuilt, Objects, Record, VARIABLES, inputs, objects};
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

/// Builds the objects if it can, writes `objects.rs` into `out_dir` and returns cargo's directives, without
/// their `cargo::`.
///
/// `objects.rs` defines `XDP_OBJECT` and `TC_OBJECT` (`Option<&[u8]>`, aligned to 8 bytes) and
/// `NOT_BUILT_REASON` and `NOT_BUILT_REMEDY` (`&str`, empty where the objects are there). With objects, the
/// cfg `linnet_bpf_objects` is set.
pub fn embed(out_dir: &Path) -> Result<Vec<String>> {
    let workspace = Workspace::of_build_script(out_dir);
    let record = Record::of_build_script(&workspace);
    let objects = objects(&workspace, &record, Messages::Captured)?;
    let mut directives: Vec<String> =
        VARIABLES.iter().map(|name| format!("rerun-if-env-changed={name}")).collect();
    let mut watched = inputs(&workspace);
    watched.extend(Some(record.path()).filter(|path| path.exists()));
    let source = match objects {
        Objects::Built { xdp, tc, toolchain } => {
            directives.push("rustc-cfg=linnet_bpf_objects".to_owned());
            watched.extend([toolchain.compiler.rustc, toolchain.linker.path]);
            present(&keep(&xdp, out_dir, "xdp.o")?, &keep(&tc, out_dir, "tc.o")?)
        }
        Objects::NotBuilt(not_built) => {
            directives
                .push(format!("warning=linnet is built without its kernel part: {not_built}"));
            absent(&not_built)
        }
    };
    directives.extend(watched.iter().map(|path| format!("rerun-if-changed={}", path.display())));
    let file = out_dir.join("objects.rs");
    fs::write(&file, source).with_context(|| format!("cannot write `{}`", file.display()))?;
    Ok(directives)
}

/// A copy of its own for the program that includes it.
fn keep(object: &Path, out_dir: &Path, name: &str) -> Result<PathBuf> {
    let copy = out_dir.join(name);
    fs::copy(object, &copy)
        .with_context(|| format!("cannot copy `{}` to `{}`", object.display(), copy.display()))?;
    Ok(copy)
}

fn present(xdp: &Path, tc: &Path) -> String {
    // Loaders read ELF headers in place, so the bytes are aligned as in a mapped file.
    let wrapper = "#[repr(C, align(8))]\nstruct Aligned<const LENGTH: usize>([u8; LENGTH]);\n";
    let included = |path: &Path| format!("Some(&Aligned(*include_bytes!({path:?})).0)");
    format!("{wrapper}{}", statics(&included(xdp), &included(tc), "", ""))
}

fn absent(not_built: &NotBuilt) -> String {
    statics("None", "None", &not_built.reason, &not_built.remedy)
}

fn statics(xdp: &str, tc: &str, reason: &str, remedy: &str) -> String {
    let mut source = String::new();
    for (name, kind, value) in [
        ("XDP_OBJECT", "Option<&[u8]>", xdp),
        ("TC_OBJECT", "Option<&[u8]>", tc),
        ("NOT_BUILT_REASON", "&str", &format!("{reason:?}")),
        ("NOT_BUILT_REMEDY", "&str", &format!("{remedy:?}")),
    ] {
        let allowed =
            "#[allow(dead_code, unreachable_pub, reason = \"whoever includes this decides\")]";
        writeln!(source, "{allowed}\npub static {name}: {kind} = {value};")
            .expect("a string takes any text");
    }
    source
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_with_quotes_stays_one_string() {
        let not_built = NotBuilt { reason: "no \"core\"\nhere".into(), remedy: "install".into() };

        let source = absent(&not_built);

        assert!(source.contains(r#"NOT_BUILT_REASON: &str = "no \"core\"\nhere";"#), "{source}");
        assert!(source.contains("XDP_OBJECT: Option<&[u8]> = None;"), "{source}");
    }

    #[test]
    fn embedded_bytes_are_aligned() {
        let source = present(Path::new("/out/xdp.o"), Path::new("/out/tc.o"));

        assert!(source.contains("align(8)"), "{source}");
        assert!(source.contains(r#"include_bytes!("/out/xdp.o")"#), "{source}");
        assert!(source.contains("NOT_BUILT_REASON: &str = \"\";"), "{source}");
    }
}
